"""The README's commands are commands that work."""

import re
import shlex
from pathlib import Path

import pytest

from ddpm_jax.config import command_line

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", "".join(p.read_text() for p in PAGES), re.DOTALL)
    lines = [
        line.split("  #")[0].strip() for b in blocks for line in b.replace("\\\n", "").split("\n")
    ]
    return sorted({line for line in lines if line.startswith("python train.py")})


@pytest.mark.parametrize("command", commands())
def test_a_training_command_of_the_docs_is_a_valid_config(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    command_line.parse_train(shlex.split(command)[2:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_exists(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_the_python_of_the_readme_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["images"].shape == (16, 32, 32, 3) and names["x_t"].shape == (16, 32, 32, 3)
