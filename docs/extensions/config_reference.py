"""Every setting of a run as tables, from the schema itself: option, default, bounds, meaning.

    ```{config-fields}
    ```

The bounds are the metadata of the fields, the meanings the comments beside them, which --help
shows too.
"""

import inspect
import re
import typing
from dataclasses import MISSING, fields

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from ddpm_jax.config import Config
from ddpm_jax.config.bounds import Bound

HEAD = "| option | default | may be | meaning |\n|-|-|-|-|\n"


class ConfigFields(SphinxDirective):
    """A section for each dataclass of the config, with a row for each field."""

    def run(self) -> list[nodes.Node]:
        text = "\n".join(
            f"## `{section}`\n\n{inspect.getdoc(kind)}\n\n{HEAD}{rows(section, kind)}"
            for section, kind in typing.get_type_hints(Config).items()
        )
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def rows(section: str, kind: type) -> str:
    kinds, meanings = typing.get_type_hints(kind, include_extras=True), comments(kind)
    lines = []
    for field in fields(kind):
        option = f"--{section}.{field.name.replace('_', '-')}"
        default = "" if field.default is MISSING else shown(field.default)
        cells = f"`{option}`", default, allowed(kinds[field.name]), meanings[field.name]
        lines.append("| " + " | ".join(each.replace("|", r"\|") for each in cells) + " |\n")
    return "".join(lines)


def shown(default: object) -> str:
    return f"`{default!r}`" if isinstance(default, str) else f"`{default}`"


def allowed(kind: object) -> str:
    """What a field may be, in words."""
    bounds = [bound for bound in getattr(kind, "__metadata__", ()) if isinstance(bound, Bound)]
    if bounds:
        base = typing.get_args(kind)[0]
        return ", ".join([f"`{base.__name__}`", *(bound.wanted for bound in bounds)])
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    return (
        f"`{kind.__name__}`"
        if isinstance(kind, type) and not typing.get_args(kind)
        else f"`{kind}`"
    )


def comments(kind: type) -> dict[str, str]:
    """The comment at the end of each field's line, by its name; empty where there is none."""
    found = re.findall(r"^    (\w+): [^#\n]*(?:# (.*))?$", inspect.getsource(kind), re.MULTILINE)
    return {name: plain(comment) for name, comment in found}


def plain(comment: str) -> str:
    """No Markdown: `*` and `_` stay as they are."""
    return re.sub(r"([*_<\[])", r"\\\1", comment)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("config-fields", ConfigFields)
    return {"parallel_read_safe": True}
