"""The sweep of samplers: its samples are sample.py's, its files stay, its command goes on."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.commands import sample
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import sampler_sweep
from ddpm_jax.generation.run import Plan
from tests.run_folders import make_run, tiny

COMMAND = "--workdir model --features classifier:judge --num 12 --labels 0-2"


@pytest.fixture(autouse=True, scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    make_run(place / "model", tiny(prediction="eps"))
    make_run(place / "judge", tiny(kind="classifier", pool="adaptive"), seed=2, spread=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield place


def run(main, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *command.split()])
    main()


@pytest.mark.slow  # compiles four chains; the other sweep shares all but the table
def test_a_sweep_measures_sample_pys_samples_and_more_of_them_later(
    place, tmp_path, monkeypatch
) -> None:
    out = tmp_path / "sweep"
    options = f"{COMMAND} --steps 4,6 --out {out}"
    run(sampler_sweep.main, monkeypatch, f"{options} --samplers heun")
    rows = json.loads((out / "sweep.json").read_text())["rows"]
    assert [(r["sampler"], r["steps"], r["evaluations"]) for r in rows] == [
        ("heun", "4", 7),
        ("heun", "6", 11),
    ]
    alone = tmp_path / "alone"
    command = "--workdir model --num 12 --labels 0-2 --sampler heun --steps 6"
    run(sample.main, monkeypatch, f"{command} --out {alone}")
    with (
        np.load(alone / "samples.npz") as ours,
        np.load(out / "heun" / "steps_6_guidance_0_cfg_1" / "samples.npz") as swept,
    ):
        np.testing.assert_array_equal(ours["arr_0"], swept["arr_0"])
    assert Image.open(out / "sweep.png").width > 500

    drawn = []
    generate = Plan.generate
    monkeypatch.setattr(
        Plan, "generate", lambda self, *rest: drawn.append(self) or generate(self, *rest)
    )
    run(sampler_sweep.main, monkeypatch, f"{options} --samplers heun,pndm")
    assert [plan.models[0].config.sample.sampler for plan in drawn] == ["pndm", "pndm"]
    table = (out / "sweep.md").read_text()
    assert table.count("\n| ") == 7 and "| pndm | 6 | 7 |" in table
    with pytest.raises(UserError, match=r"results of other settings \(seed 0 -> 3\)"):
        run(sampler_sweep.main, monkeypatch, f"{options} --samplers heun --seed 3")


def test_bad_input_is_refused(monkeypatch) -> None:
    for words, pattern in {
        "--samplers ddim,dpmm_2m": r"--samplers dpmm_2m: unknown.*did you mean dpmpp_2m\?",
        "--samplers unipc --steps 4,99": 'steps "99": must be a number from 2 to 12',
        "--num 3": "--num 3: must be at least 8",
        "--features nothing": "--features nothing: must be inception, classifier:DIR",
    }.items():
        with pytest.raises(UserError, match=pattern):
            run(sampler_sweep.main, monkeypatch, f"{COMMAND} --steps 4 {words}")
