"""Weights & Biases, offline: what its own file holds of a run that was resumed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.config import Config, TrainConfig
from ddpm_jax.runs.metrics_log import MetricsLog

BLOCK = 32768  # of the log format of LevelDB, in which W&B writes


def wandb_records(path: Path) -> list[Any]:
    """The records of a .wandb file, whose header takes 7 bytes, as each chunk's does."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, records, whole = path.read_bytes(), 7, [], b""
    while place < len(data):
        if BLOCK - place % BLOCK < 7:  # no chunk fits into the rest of a block
            place += BLOCK - place % BLOCK
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last of its chunks
            records.append(Record.FromString(whole))
            whole = b""
    return records


def history(records: list[Any]) -> dict[int, dict[str, Any]]:
    """What was logged, by step."""
    return {
        record.history.step.num: {
            ".".join([*item.nested_key] or [item.key]): json.loads(item.value_json)
            for item in record.history.item
        }
        for record in records
        if record.WhichOneof("record_type") == "history"
    }


def test_a_resumed_run_goes_on_in_the_same_run_of_wandb(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = Config(train=TrainConfig(wandb_project="trial", learning_rate=0.5))
    picture = np.random.default_rng(0).integers(0, 256, (4, 5, 1), np.uint8)
    with MetricsLog(tmp_path / "mine", 0, config) as log:
        log.scalars(10, {"loss": 0.5, "grad_norm": float("nan")})
        log.scalars(20, {"loss": 0.25})
        log.scalars(20, {"held_out_loss": 2})
        log.image(20, "samples", picture)
    with MetricsLog(tmp_path / "mine", 20, config) as log:
        log.scalars(30, {"loss": 0.125})
    wandb.teardown()  # ends the process that writes the files

    first, second = (
        wandb_records(path) for path in sorted((tmp_path / "mine").glob("wandb/*run-*/*.wandb"))
    )
    runs = [r.run for r in (*first, *second) if r.WhichOneof("record_type") == "run"]
    assert {(run.run_id, run.project, run.display_name) for run in runs} == {
        ((tmp_path / "mine" / "wandb_id.txt").read_text(), "trial", "mine")
    }
    settings = {each.key: each.value_json for each in runs[0].config.update}
    assert json.loads(settings["train.learning_rate"]) == 0.5
    logged, later = history(first), history(second)
    assert list(logged) == [10, 20] and list(later) == [30]
    assert logged[10]["loss"] == 0.5 and np.isnan(logged[10]["grad_norm"])
    assert (logged[20]["loss"], logged[20]["held_out_loss"]) == (0.25, 2)
    assert later[30]["loss"] == 0.125
    (saved,) = (tmp_path / "mine" / "wandb").glob(f"*run-*/files/{logged[20]['samples.path']}")
    np.testing.assert_array_equal(np.asarray(Image.open(saved).convert("L")), picture[..., 0])
