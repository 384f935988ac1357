"""A run folder: one config and one training at a time."""

import dataclasses
import json

import pytest

from ddpm_jax.config import Config, TrainConfig
from ddpm_jax.errors import UserError
from ddpm_jax.runs import folder


def test_a_run_folder_belongs_to_one_config(tmp_path):
    config = Config()
    folder.create_run_folder(tmp_path / "run", config)
    folder.create_run_folder(tmp_path / "run", config)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["seed"] == 0
    other = dataclasses.replace(config, train=TrainConfig(learning_rate=1.0))
    with pytest.raises(UserError, match=r"train\.learning_rate 0\.0002 -> 1\.0"):
        folder.create_run_folder(tmp_path / "run", other)
    # What a resumed run may change: how often things happen, and how long a constant rate runs.
    free = TrainConfig(steps=5, log_every_steps=7, checkpoint_every_steps=3)
    folder.create_run_folder(tmp_path / "run", dataclasses.replace(config, train=free))
    with pytest.raises(UserError, match="cannot be written"):
        folder.create_run_folder(tmp_path / "run" / "config.json" / "below", config)
