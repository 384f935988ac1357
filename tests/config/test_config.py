"""Configs on their way through the command line and JSON."""

import ast
import dataclasses
import inspect
import json
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

FILES = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))
SECTIONS = typing.get_type_hints(Config)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_survives_json_and_its_check(file: Path, tmp_path: Path) -> None:
    loaded = command_line.load_config(file)
    check(loaded)
    (tmp_path / "config.json").write_text(serialization.to_json(loaded))
    read = serialization.read_config(tmp_path / "config.json")
    assert read == loaded and hash(read) == hash(loaded)  # tuples, not lists
    assert serialization.differences(read, loaded) == []


def test_every_field_away_from_its_default_survives_json(tmp_path: Path) -> None:
    changed = Config(
        model=ModelConfig(channel_mult=(0.5, 1, 2), attention_resolutions=(), dtype="bfloat16"),
        diffusion=DiffusionConfig(beta_start=1e-5, sigmoid_range=(-3.0, 4), schedule="sigmoid"),
        train=TrainConfig(learning_rate=1, seed=2**32 - 1),
    )
    assert serialization.from_dict(Config, json.loads(serialization.to_json(changed))) == changed


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
    values = json.loads(serialization.to_json(Config()))
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


def test_help_lists_every_field_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command_line.parse_train(["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert end.value.code == 0
    for section, kind in SECTIONS.items():
        for field in dataclasses.fields(kind):
            assert f"--{section}.{field.name.replace('_', '-')} " in shown
    for meaning in ("examples a step, over all devices", "--workdir DIR", "the network sees t"):
        assert meaning in shown


def test_options_override_single_fields() -> None:
    command = (
        "--train.batch-size 64 --model.channel-mult 1 2 --data.flip True --sample.steps ddim25 "
        "--model.attention-resolutions --diffusion.schedule linear --diffusion.beta-end 0.5 "
        "--workdir some/where"
    )
    ours, workdir, dry_run = command_line.parse_train(command.split())
    assert workdir == Path("some/where") and not dry_run
    assert command_line.parse_train(["--dry-run", *command.split()])[0] == ours
    theirs = command_line.load_config(command_line.DEFAULT_CONFIG)
    assert (ours.train.batch_size, ours.model.channel_mult) == (64, (1, 2))
    assert ours.data.flip is True and ours.sample.steps == "ddim25"
    assert ours.model.attention_resolutions == () and ours.diffusion.beta_end == 0.5
    assert dataclasses.replace(ours.train, batch_size=theirs.train.batch_size) == theirs.train


def test_the_run_folder_is_named_after_the_config(tmp_path: Path) -> None:
    assert command_line.parse_train([])[1] == Path("runs/digits")
    mine = tmp_path / "mine.py"
    mine.write_text(command_line.DEFAULT_CONFIG.read_text())
    assert command_line.parse_train(["--config", str(mine)])[1] == Path("runs/mine")


def changed(section: str, **fields: object) -> Config:
    base = Config()
    part = dataclasses.replace(getattr(base, section), **fields)
    return dataclasses.replace(base, **{section: part})


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("data", "flip", True),
        ("model", "channels", 64),
        ("model", "dtype", "bfloat16"),
        ("diffusion", "schedule", "cosine"),
        ("train", "seed", 1),
        ("train", "batch_size", 64),
        ("train", "learning_rate", 1e-3),
        ("train", "grad_accumulation_steps", 2),
    ],
)
def test_what_changes_the_numbers_of_a_run_is_named(
    section: str, field: str, value: object
) -> None:
    before = getattr(getattr(Config(), section), field)
    found = serialization.differences(changed(section, **{field: value}), Config())
    assert found == [f"{section}.{field} {before} -> {value}"]


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("data", "dir", "/elsewhere"),
        ("model", "remat", True),
        ("train", "checkpoint_every_steps", 7),
        ("train", "keep_checkpoints", 1),
        ("train", "sample_every_steps", 0),
        ("train", "log_every_steps", 1),
        ("train", "max_skipped_steps", 1),
        ("train", "stop_on_failed_save", False),
        ("train", "steps", 9),
        ("sample", "sampler", "ddim"),
        ("parallel", "data", 2),
        ("parallel", "fsdp", 2),
        ("profile", "steps", "3:4"),
    ],
)
def test_what_a_resumed_run_may_change_is_not_named(
    section: str, field: str, value: object
) -> None:
    assert serialization.differences(changed(section, **{field: value}), Config()) == []


def test_the_number_of_steps_counts_where_the_learning_rate_depends_on_it() -> None:
    old = changed("train", learning_rate_decay="cosine")
    new = changed("train", learning_rate_decay="cosine", steps=9)
    assert serialization.differences(new, old) == ["train.steps 1000 -> 9"]
