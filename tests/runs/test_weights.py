"""Which of a run's weights are drawn with: an average of any rate that it kept, or the trained."""

import dataclasses
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from ddpm_jax.commands import sample
from ddpm_jax.config import Config, ParallelConfig, TrainConfig, serialization
from ddpm_jax.errors import UserError
from ddpm_jax.models import Params, build_network
from ddpm_jax.runs.checkpoints import Checkpoints, save_imported
from ddpm_jax.runs.weights import load_weights, weights_item
from ddpm_jax.runtime.devices import make_mesh
from tests.run_folders import tiny

CONFIG = dataclasses.replace(tiny(), train=TrainConfig(ema_decay=0.9, extra_ema_decays=(0.5, 0.99)))
SIZES = {0.9: 0.1, 0.5: 0.2, 0.99: 0.3, 0: 0.4}  # of all weights averaged at a rate


class State(NamedTuple):
    params: Params
    ema: Params
    extra_ema: dict[str, Params]


def weights(size: float) -> Params:
    rng = np.random.default_rng(0)
    abstract = build_network(CONFIG).abstract
    return jax.device_put(
        {n: (size * rng.standard_normal(a.shape)).astype(np.float32) for n, a in abstract.items()}
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "several"
    folder.mkdir()
    config = serialization.to_json(CONFIG)
    (folder / "config.json").write_text(config)
    extra = {str(rate): weights(SIZES[rate]) for rate in CONFIG.train.extra_ema_decays}
    with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(1, State(weights(SIZES[0]), weights(SIZES[0.9]), extra), config)
    return folder


@pytest.mark.parametrize(("ema", "size"), [(None, SIZES[0.9]), *SIZES.items()])
def test_a_rate_chooses_its_weights(workdir, ema, size):
    mesh = make_mesh(ParallelConfig(), 8)
    loaded = load_weights(workdir, build_network(CONFIG), mesh, weights_item(CONFIG, ema))
    jax.tree.map(np.testing.assert_array_equal, loaded.items["ema"], weights(size))


def draw(workdir: Path, out: Path, *options: str, monkeypatch) -> np.ndarray:
    arguments = ["--workdir", str(workdir), "--out", str(out), "--num", "3", *options]
    monkeypatch.setattr(sys, "argv", ["sample.py", *arguments])
    sample.main()
    with np.load(out / "samples.npz") as files:
        return files["arr_0"]


def test_samples_are_drawn_with_the_weights_that_ema_names(workdir, tmp_path, monkeypatch):
    usual = draw(workdir, tmp_path / "usual", monkeypatch=monkeypatch)
    same = draw(workdir, tmp_path / "same", "--ema", "0.9", monkeypatch=monkeypatch)
    other = draw(workdir, tmp_path / "other", "--ema", "0", monkeypatch=monkeypatch)
    np.testing.assert_array_equal(usual, same)
    assert (usual != other).mean() > 0.3


def test_an_unknown_rate_is_an_error_that_names_those_there_are(workdir, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--ema 0\.7: .* averaged at 0\.9, 0\.5, 0\.99, and 0, "):
        draw(workdir, tmp_path, "--ema", "0.7", monkeypatch=monkeypatch)


def test_imported_weights_are_of_one_kind(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(serialization.to_json(CONFIG))
    save_imported(tmp_path / "checkpoints", weights(0.3), serialization.to_json(CONFIG))
    with pytest.raises(UserError, match=r"imported weights, and no others: .* leave --ema out"):
        draw(tmp_path, tmp_path / "out", "--ema", "0", monkeypatch=monkeypatch)
    assert len(draw(tmp_path, tmp_path / "out", "--ema", "0.9", monkeypatch=monkeypatch)) == 3


def test_a_config_from_before_further_averages_has_none():
    values = dataclasses.asdict(Config())
    del values["train"]["extra_ema_decays"]
    assert serialization.from_dict(Config, values) == Config()
