"""The API, a page for each room of the package, from its docstrings.

The pages are written when a build starts, into docs/reference/api, which git ignores: a new room
or module is there without being named anywhere. Docstrings are plain text with `code`, indented
commands and Google's sections, and are made reStructuredText here. Signatures are the source's
own, in which a shape reads `x_t: Float[Array, "batch *shape"]`.
"""

import ast
import inspect
import pkgutil
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import ddpm_jax

FIRST = "diffusion", "sampling", "models", "config", "data", "training", "generation"  # then others
SECTIONS = "Args:", "Attributes:", "Raises:", "Returns:"  # which napoleon knows
MARKUP = r"([*|\\]|_(?![a-zA-Z0-9]))"


def write_pages(app: Sphinx) -> None:
    """A page for each room, and for each the modules that it has."""
    folder = Path(app.confdir) / "reference" / "api"
    folder.mkdir(parents=True, exist_ok=True)
    rooms = [each.name for each in pkgutil.iter_modules(ddpm_jax.__path__) if each.ispkg]
    pages = {room: room_page(room) for room in rooms} | {"index": index_page(rooms)}
    for old in folder.glob("*.rst"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        file = folder / f"{name}.rst"
        if not file.exists() or file.read_text() != text:  # else Sphinx would read it again
            file.write_text(text)


def index_page(rooms: list[str]) -> str:
    ordered = [*(room for room in FIRST if room in rooms), *(r for r in rooms if r not in FIRST)]
    about = "Each page has the public functions of one room; the rooms are in the order in which\n"
    about += "most people need them. What is imported most often is found in the room itself, as\n"
    about += "in ``from ddpm_jax.diffusion import q_sample``."
    return f"{heading('The API', '=')}{about}\n\n.. toctree::\n   :maxdepth: 1\n\n" + "".join(
        f"   {room}\n" for room in ordered
    )


def room_page(room: str) -> str:
    name = f"ddpm_jax.{room}"
    text = f"{heading(name, '=')}.. automodule:: {name}\n   :no-members:\n\n"
    for module in pkgutil.iter_modules([str(Path(ddpm_jax.__path__[0]) / room)]):
        if not module.name.startswith("_"):
            text += f"{heading(module.name, '-')}.. automodule:: {name}.{module.name}\n\n"
    return text


def heading(title: str, rule: str) -> str:
    return f"{title}\n{rule * len(title)}\n\n"


def as_rest(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A docstring as reStructuredText: indented commands are blocks, the rest has no markup."""
    text: list[str] = []
    in_block = in_list = False
    for line in lines:
        indent, after_blank = len(line) - len(line.lstrip()), not text or not text[-1]
        if line and indent == 0:
            in_block = False
            in_list = line.endswith(":") and line not in SECTIONS
        elif indent >= 4 and after_blank and not in_list:
            text += [] if in_block else ["::", ""]
            in_block = True
        if in_block or not in_list or not indent:
            text.append(line if in_block else escaped(line))
        elif indent == 2:  # arguments of something else than the function itself: a list
            text += ["", f"* {escaped(line.strip())}"]
        else:
            text.append(f"  {escaped(line.strip())}")
    lines[:] = text


def escaped(line: str) -> str:
    """`*`, `|` and a trailing `_` would be markup, unless they are in `code`."""
    pieces = re.split(r"(`[^`]*`)", line)
    return "".join(
        f"`{piece}`" if piece.startswith("`") else re.sub(MARKUP, r"\\\1", piece)
        for piece in pieces
    )


def as_written(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """The signature of a function or class as its source has it; None keeps what autodoc found."""
    if what not in ("function", "method", "class"):
        return None
    try:
        node = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(obj)))).body[0]
    except (OSError, TypeError, SyntaxError):
        return None
    names = vars(sys.modules[inspect.unwrap(obj).__module__])
    if isinstance(node, ast.ClassDef):
        made = [each for each in node.body if getattr(each, "name", "") == "__init__"]
        if not made:
            return f"({fields(node, names)})", ""
        (node,) = made
    if not isinstance(node, ast.FunctionDef):
        return None
    returned = "" if node.name == "__init__" or not node.returns else linked(node.returns, names)
    for each in ast.walk(node.args):
        if isinstance(each, ast.arg) and each.annotation:
            each.annotation = ast.Name(linked(each.annotation, names))
    if node.args.args and node.args.args[0].arg in ("self", "cls"):
        del node.args.args[0]
    return f"({ast.unparse(node.args)})", returned


def fields(node: ast.ClassDef, names: dict[str, Any]) -> str:
    """The fields of a named tuple or dataclass, as its constructor takes them."""
    return ", ".join(
        f"{each.target.id}: {linked(each.annotation, names)}"
        + (f" = {ast.unparse(each.value)}" if each.value else "")
        for each in node.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    )


def linked(annotation: ast.expr, names: dict[str, Any]) -> str:
    """An annotation with the package's names whole, as ~ddpm_jax.a.B, which Sphinx shortens."""

    class Whole(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.Name:
            found = names.get(node.id)
            module = getattr(found, "__module__", None) or ""
            whole = isinstance(found, type) and module.startswith("ddpm_jax.")
            return ast.Name(f"~{module}.{found.__qualname__}") if whole else node

        def visit_Constant(self, node: ast.Constant) -> ast.Constant:
            return ast.Constant(node.value.strip() if isinstance(node.value, str) else node.value)

    return ast.unparse(Whole().visit(annotation))


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """What other packages define, and fields of named tuples; None: as autodoc decides."""
    others = not (getattr(obj, "__module__", None) or "ddpm_jax").startswith("ddpm_jax")
    is_field = (getattr(obj, "__doc__", None) or "").startswith("Alias for field")
    return True if others or is_field else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_pages, priority=100)
    app.connect("autodoc-process-docstring", as_rest, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", as_written)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
