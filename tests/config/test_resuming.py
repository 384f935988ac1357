"""What a resumed run may change, and what is refused with the ways out."""

import dataclasses
import json
import shutil
import sys
import typing
from pathlib import Path

import jax.numpy as jnp
import pytest

from ddpm_jax.commands import train
from ddpm_jax.config import Config, TrainConfig, resuming
from ddpm_jax.errors import UserError
from ddpm_jax.runs import folder
from ddpm_jax.training.state import learning_rate

SECTIONS = typing.get_type_hints(Config)


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
    found = resuming.differences(changed(section, **{field: value}), Config())
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
    assert resuming.differences(changed(section, **{field: value}), Config()) == []


def test_every_name_that_may_change_is_a_setting_or_a_section() -> None:
    names = {f"{section}.{field}" for section in SECTIONS for field in fields_of(section)}
    assert names | set(SECTIONS) >= resuming.MAY_CHANGE


def fields_of(section: str) -> list[str]:
    return [field.name for field in dataclasses.fields(SECTIONS[section])]


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_a_learning_rate_that_falls_allows_more_steps_alone_and_says_what_changes(
    decay: str,
) -> None:
    old = changed("train", learning_rate_decay=decay, steps=1000)
    longer = changed("train", learning_rate_decay=decay, steps=5000)
    assert resuming.differences(longer, old) == []
    (line,) = resuming.consequences(longer, old)
    assert "falls to 0 at step 5000 instead of 1000" in line and "higher" in line
    steps = jnp.arange(2, 1000)
    assert (learning_rate(longer.train)(steps) > learning_rate(old.train)(steps)).all()
    assert resuming.differences(old, longer) == ["train.steps 5000 -> 1000"]


def test_a_constant_learning_rate_allows_any_number_of_steps_in_silence() -> None:
    for steps in (9, 5000):
        new = changed("train", steps=steps)
        assert resuming.differences(new, Config()) == []
        assert resuming.consequences(new, Config()) == []


def test_the_patience_of_early_stopping_may_change_but_not_whether_it_is_at_work() -> None:
    five = changed("train", early_stop_validations=5)
    assert resuming.differences(changed("train", early_stop_validations=9), five) == []
    assert resuming.differences(Config(), five) == ["train.early_stop_validations 5 -> 0"]


def test_measuring_may_begin_or_end_but_scores_stay_comparable() -> None:
    measured = changed("evaluate", every_steps=100)
    assert (
        resuming.differences(measured, Config()) == resuming.differences(Config(), measured) == []
    )
    fewer = changed("evaluate", every_steps=100, num=10)
    assert resuming.differences(fewer, measured) == ["evaluate.num 5000 -> 10"]
    stops = dataclasses.replace(Config(), train=TrainConfig(early_stop_validations=5))
    both = dataclasses.replace(measured, train=stops.train)
    assert resuming.differences(both, stops) == ["evaluate.every_steps 0 -> 100"]


def test_names_of_classes_count_where_both_runs_have_classes_and_names() -> None:
    def named(names: tuple[str, ...], num_classes: int = 2) -> Config:
        config = changed("data", class_names=names)
        model = dataclasses.replace(config.model, num_classes=num_classes)
        return dataclasses.replace(config, model=model)

    cats, ants = named(("cat", "dog")), named(("ant", "bee"))
    assert resuming.differences(cats, named(())) == []  # a run of an older version
    assert resuming.differences(cats, ants) == ["data.class_names ('ant', 'bee') -> ('cat', 'dog')"]
    assert resuming.differences(named(("cat", "dog"), 0), named(("ant", "bee"), 0)) == []


def test_a_refused_change_names_the_ways_out(tmp_path: Path) -> None:
    folder.create_run_folder(tmp_path, Config())
    with pytest.raises(UserError) as error:
        folder.create_run_folder(tmp_path, changed("train", batch_size=64))
    message = str(error.value)
    assert "another config (train.batch_size 128 -> 64): choose another --workdir" in message
    assert "may change data.dir, model.remat, parallel.*" in message
    assert f"export_weights --workdir {tmp_path} --to weights.pt" in message
    assert "\n" not in message


def test_training_longer_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    longer = changed("train", learning_rate_decay="cosine", steps=5000)
    for config in (changed("train", learning_rate_decay="cosine"), longer, longer):
        folder.create_run_folder(tmp_path, config)
    assert capsys.readouterr().out.count("falls to 0 at step 5000") == 1


@pytest.mark.slow  # compiles a step of its own; what is said of it is tested above
def test_a_finished_run_whose_rate_falls_goes_on_to_more_steps(
    tiny_run: Path,
    tiny_options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workdir = shutil.copytree(tiny_run, tmp_path / "longer")
    command = ["train.py", "--workdir", str(workdir), *tiny_options, "--train.steps", "8"]
    monkeypatch.setattr(sys, "argv", command)
    train.main()
    out = capsys.readouterr().out
    assert "falls to 0 at step 8 instead of 6" in out and "resumed after step 6" in out
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["step"]) == ("finished", 8)
    assert json.loads((workdir / "config.json").read_text())["train"]["steps"] == 8
