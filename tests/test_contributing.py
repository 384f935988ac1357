"""The examples of CONTRIBUTING.md work as they stand."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = re.compile(r"^## Add (?:a|an) ([^\n]*)\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"```python\n# (\S+)\.py\n(.*?)```", re.DOTALL)
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLES = {name: BLOCK.findall(text) for name, text in EXAMPLE.findall(PAGE)}


def names_of(module: str) -> dict:
    return dict(vars(importlib.import_module(module.replace("/", "."))))


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_addition_is_one_function_one_row_and_one_test(example, monkeypatch):
    (module, code), (test_module, test) = EXAMPLES[example]
    names = names_of(module)
    ((table, row),) = re.findall(r'^([A-Z]+)\["(\w+)"\] = ', code, re.MULTILINE)
    assert row not in names[table]
    monkeypatch.setitem(names[table], row, None)  # taken out again after the test
    exec(code, names)
    tests = names_of(test_module)
    exec(test, tests)
    (name,) = re.findall(r"^def (test_\w+)", test, re.MULTILINE)
    tests[name]()


def test_every_kind_of_addition_has_an_example():
    kinds = {"schedule", "prediction", "sampler", "data set", "metric", "published model"}
    assert set(EXAMPLES) == kinds
