"""Configs on their way through JSON, and what each of their fields means."""

import ast
import dataclasses
import inspect
import json
import os
import sys
import typing
from pathlib import Path

import pytest

from ddpm_jax.config import (
    Config,
    DiffusionConfig,
    ModelConfig,
    TrainConfig,
    check,
    command_line,
    schema,
    serialization,
)
from ddpm_jax.errors import UserError

FILES = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))
SECTIONS = typing.get_type_hints(Config)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_survives_json_and_its_check(file: Path, tmp_path: Path) -> None:
    loaded = command_line.load_config(file)
    check(loaded)
    (tmp_path / "config.json").write_text(serialization.to_json(loaded))
    read = serialization.read_config(tmp_path / "config.json")
    assert read == loaded and hash(read) == hash(loaded)  # tuples, not lists


def test_a_config_changed_within_a_second_is_read_anew(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "small.py"
    for steps in (10, 20):
        file.write_text(
            "from ddpm_jax.config import Config, TrainConfig\n"
            f"def get_config(): return Config(train=TrainConfig(steps={steps}))"
        )
        os.utime(file, (0, 0))  # as if at the same time
        assert command_line.load_config(file).train.steps == steps
    assert list(tmp_path.iterdir()) == [file]


def test_json_says_the_version_of_its_format() -> None:
    values = json.loads(serialization.to_json(Config()))
    assert values.pop("format_version") == 1
    assert values == json.loads(json.dumps(dataclasses.asdict(Config())))


def test_a_config_of_before_versions_and_newer_fields_has_their_defaults(tmp_path: Path) -> None:
    values = dataclasses.asdict(Config(train=TrainConfig(steps=7)))
    del values["data"]["class_names"], values["sample"]["clip_guided"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    read = serialization.read_config(tmp_path / "config.json")
    assert read == Config(train=TrainConfig(steps=7))


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (2, "its format_version is 2, and this ddpm_jax reads up to 1: update ddpm_jax"),
        ("1", "format_version is '1', expected int"),
        (None, "format_version is None, expected int"),
    ],
)
def test_a_newer_or_unknown_format_is_refused(
    version: object, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    # A field that this version does not know: the format is what the user must hear of.
    path.write_text(json.dumps({"format_version": version, "future": 1}))
    with pytest.raises(UserError) as error:
        serialization.read_config(path)
    assert str(error.value) == f"{path} cannot be read: {message}"


def test_every_field_away_from_its_default_survives_json(tmp_path: Path) -> None:
    changed = Config(
        model=ModelConfig(channel_mult=(0.5, 1, 2), attention_resolutions=(), dtype="bfloat16"),
        diffusion=DiffusionConfig(beta_start=1e-5, sigmoid_range=(-3.0, 4), schedule="sigmoid"),
        train=TrainConfig(learning_rate=1, seed=2**32 - 1),
    )
    assert serialization.from_json(serialization.to_json(changed)) == changed


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("model", "chanels", 8),
        ("model", "channels", "8"),
        ("model", "channels", 8.5),
        ("model", "channels", True),
        ("model", "channel_mult", 2),
        ("model", "channel_mult", [1, "2"]),
        ("model", "kind", "vit"),
        ("data", "flip", 1),
        ("data", "name", None),
        ("diffusion", "beta_start", "1e-4"),
        ("diffusion", "sigmoid_range", [-6.0, 0.0, 6.0]),
        ("train", "learning_rate", False),
        ("sample", "steps", 50),
    ],
)
def test_json_with_an_unknown_or_ill_typed_field_is_an_error(
    section: str, field: str, value: object
) -> None:
    values = dataclasses.asdict(Config())
    values[section][field] = value
    with pytest.raises(ValueError, match=field):
        serialization.from_dict(Config, values)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_says_what_it_means(section: str) -> None:
    """By a comment on its line or, for well-known ones, by its name alone."""
    lines = inspect.getsource(schema).splitlines()
    known = {"train.adam_b1", "train.adam_b2", "sample.sampler"}
    tree = ast.parse(inspect.getsource(schema))
    (found,) = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == SECTIONS[section].__name__
    ]
    assert ast.get_docstring(found)
    fields = [node for node in found.body if isinstance(node, ast.AnnAssign)]
    assert len(fields) == len(dataclasses.fields(SECTIONS[section]))
    for node in fields:
        explained = any("#" in line for line in lines[node.lineno - 1 : node.end_lineno])
        # A field over several lines shares its comment with the fields around it.
        several = node.end_lineno > node.lineno
        assert explained or several or f"{section}.{node.target.id}" in known, node.target.id
