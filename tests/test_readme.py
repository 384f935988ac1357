"""What the pages say works: their commands, their links, their Python."""

import re
import shlex
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest

from ddpm_jax.config import command_line
from ddpm_jax.interop import pretrained

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", "".join(p.read_text() for p in PAGES), re.DOTALL)
    lines = [
        line.split("  #")[0].strip() for b in blocks for line in b.replace("\\\n", "").split("\n")
    ]
    return sorted({line for line in lines if line.startswith("python train.py")})


@pytest.mark.parametrize("command", commands())
def test_a_training_command_of_the_docs_is_a_valid_config(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="0") if "--help" in command else nullcontext():
        command_line.parse_train(shlex.split(command)[2:], pretrained.config_of)


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What GitHub names the headings of a page: `## Start here!` is #start-here."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ +(.*?) *$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)  # of a link, its text
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def dead_links(page: Path) -> list[str]:
    """The links of a page to files, and to headings of pages, that are not there."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_exists(page):
    assert not dead_links(page)


def test_a_link_to_a_file_or_heading_that_is_not_there_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# Other\n## Start here!\n## Start here!\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# A `page`\n```bash\n# no heading\n```\n"
        "[](#a-page) [](#no-heading) [](other.md#start-here-1) [](other.md#start) [](none.md)\n"
    )
    assert dead_links(page) == ["#no-heading", "other.md#start", "none.md"]


def test_the_functional_example_of_the_readme_runs():
    _, code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["images"].shape == (16, 32, 32, 3) and names["x_t"].shape == (16, 32, 32, 3)


def test_the_run_object_of_the_readme_draws(tiny_run, tmp_path, monkeypatch):
    code, _ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code.replace("steps=50", "steps=5"), names)  # the chain of this run has 20
    batch = names["batch"]
    assert batch.images.shape == (16, 8, 8, 1) and batch.images.dtype == "uint8"
    assert set(batch.labels) == {3, 7} and batch._repr_png_().startswith(b"\x89PNG")
