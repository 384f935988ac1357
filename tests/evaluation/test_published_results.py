"""Published rows: a protocol from a name, and the verdict."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_jax.commands import evaluate
from ddpm_jax.config.serialization import to_json
from ddpm_jax.evaluation import published_results
from ddpm_jax.evaluation.features import function_extractor
from ddpm_jax.evaluation.metrics import METRICS
from ddpm_jax.evaluation.published_results import (
    BATCHES,
    NUM,
    ROWS,
    TOLERANCES,
    PublishedResult,
    comparison,
    verdict,
)
from ddpm_jax.generation.generator import Generator
from ddpm_jax.interop import pretrained, published
from ddpm_jax.interop.published import MODELS, Published
from tests.interop.file_server import FileServer, serving
from tests.interop.small import TINY, command, config_of, import_run, state_dict

REAL = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_of_a_model_and_of_metrics_and_its_protocol_is_options(name, monkeypatch) -> None:
    row = ROWS[name]
    assert row.model in MODELS or pretrained.hub.is_name(row.model)
    assert set(row.values) <= set(TOLERANCES) & set(METRICS) and row.values["fid"] > 0
    assert row.reference in BATCHES or row.reference.startswith("tfds:")
    assert re.search(r"20\d\d, table \d", row.source)
    monkeypatch.setattr(pretrained, "run_folder", Path)
    args = evaluate.with_row(evaluate.Args(published=name, num=9), row)
    assert args.pretrained == row.model and args.metrics == ",".join(row.values)
    assert args.num == 9 and args.steps == row.options["steps"]
    found = evaluate.with_companions(args)
    for role in pretrained.COMPANIONS:  # each is one of the published
        assert getattr(args, role) is None or str(getattr(found, role)) in MODELS
    if found.classifier is not None:
        assert args.guidance_scale == row.options["guidance_scale"]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.model in MODELS])
def test_the_models_of_a_row_draw_as_it_says(name, tmp_path, monkeypatch) -> None:
    def run_folder(model: str) -> Path:
        """A run as far as a plan reads it: no weights."""
        (folder := tmp_path / model).mkdir()
        (folder / "config.json").write_text(to_json(published.load_config(model)))
        return folder

    monkeypatch.setattr(pretrained, "run_folder", run_folder)
    row = ROWS[name]
    args = evaluate.with_companions(evaluate.with_row(evaluate.Args(published=name, num=9), row))
    (run,) = evaluate.open_runs(args)
    evaluate.clip_as_published([run])
    plan = run.plan(evaluate.generation_options(args))
    first, last = plan.models[0], plan.models[-1]
    assert len(plan.labels[0]) == 9 and (plan.labels[0][0] >= 0) == ("labels" in row.options)
    assert not first.config.sample.clip_guided
    assert first.config.sample.steps == row.options["steps"]
    assert evaluate.images_config(args, [run]).data.image_size == last.config.data.image_size
    side = re.search(r"(\d+)\D*$", BATCHES.get(row.reference, row.reference))[1]
    assert int(side.replace("10", "32")) == last.config.data.image_size  # cifar10
    assert plan.guidance.scales[0].guidance == float(row.options.get("guidance_scale", 0))


def test_a_run_of_ones_own_may_take_the_place_of_the_published_model() -> None:
    args = evaluate.with_row(
        evaluate.Args(published="imagenet64", workdir="runs/mine"), ROWS["imagenet64"]
    )
    assert args.pretrained is None and args.workdir == "runs/mine" and args.steps == "250"


def test_the_verdict_goes_by_the_tolerances() -> None:
    row = ROWS["imagenet256"]
    assert "verdict: reproduced" in verdict(row, row.values, NUM)
    assert "reproduced" in verdict(row, {**row.values, "fid": 10.94 * 1.049}, NUM)
    far = {**row.values, "fid": 10.94 * 1.051, "recall": 0.63 - 0.021, "precision": 0.71}
    assert verdict(row, far, NUM).startswith("verdict: not reproduced: fid, recall differ")
    assert "not reproduced: is" in verdict(row, {**row.values, "is": float("nan")}, NUM)
    assert "no comparison, for 5,000 samples are not 50,000" in verdict(row, row.values, 5_000)
    text = comparison(row, far, NUM)
    assert "| published | 50,000 | 10.94 | 6.02 | 0.69 | 0.63 | 100.98 |" in text
    assert "| may differ by |  | 5 % | 5 % | 0.02 | 0.02 | 5 % |" in text


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Publishes a model "tiny" and the reference batch of its row "tiny_row"."""
    (tmp_path / "tiny.py").write_text(TINY)
    torch.save(state_dict(config_of(TINY)), tmp_path / "tiny.pt")
    monkeypatch.setitem(MODELS, "tiny", Published(str(tmp_path / "tiny"), "tiny.pt", "", 0))
    monkeypatch.setitem(BATCHES, "real", "tiny/VIRTUAL_tiny.npz")
    values = {"precision": 0.5, "recall": 0.5}
    options = {"sampler": "ddim", "steps": "3", "labels": "random"}
    row = PublishedResult("tiny", values, "nobody 2020, table 0", "real", options)
    monkeypatch.setitem(ROWS, "tiny_row", row)
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.chdir(tmp_path)
    np.savez(batch := io.BytesIO(), REAL)
    with serving(None) as server:
        server.bodies = {
            "tiny.pt": Path("tiny.pt").read_bytes(),
            "VIRTUAL_tiny.npz": batch.getvalue(),
        }
        monkeypatch.setenv(published.MIRROR, server.address)
        yield server


def test_evaluate_measures_a_row_and_goes_on_where_it_was(
    server, tmp_path, monkeypatch, capsys
) -> None:
    extractor = function_extractor("tests.evaluation.pixels:flat")  # Inception takes minutes
    monkeypatch.setattr(evaluate, "find_extractor", lambda args, names: extractor)

    def import_here(source: Path, out: Path, name: str) -> None:
        import_run(source, out, capsys, str(published.config_path(name)))

    monkeypatch.setattr(pretrained, "_import_weights", import_here)
    words = "--published tiny_row --num 6 --batch-size 4".split()
    code, stdout, stderr = command(evaluate.main, words, capsys)
    assert code == 0, stderr
    assert server.paths == ["/jul-2021/tiny.pt", "/jul-2021/ref_batches/tiny/VIRTUAL_tiny.npz"]
    assert "| published | 50,000 | 0.5 | 0.5 |" in stdout and "| measured | 6 | " in stdout
    assert "\nverdict: no comparison, for 6 samples are not 50,000" in stdout
    (written,) = Path("pretrained/tiny/evaluation").glob("*/published.md")
    assert "verdict: no comparison" in written.read_text()
    assert '"steps": "3"' in (written.parent / "metrics.json").read_text()

    monkeypatch.setattr(Generator, "_draw", None)
    monkeypatch.setattr(published_results, "NUM", 6)
    code, again, stderr = command(evaluate.main, words, capsys)
    assert code == 0, stderr
    assert len(server.paths) == 2 and "reproduced" in again.splitlines()[-1]
    measured = re.search(r"\| measured .*", stdout)[0]
    assert measured in again


def test_a_reference_that_cannot_be_fetched_is_told_with_its_place(
    server, monkeypatch, capsys
) -> None:
    del server.bodies["VIRTUAL_tiny.npz"]
    monkeypatch.setattr(evaluate, "open_runs", lambda args: [])
    code, _, stderr = command(evaluate.main, ["--published", "tiny_row"], capsys)
    file = Path("cache/references/VIRTUAL_tiny.npz").absolute()
    assert code == 2 and stderr.splitlines() == [
        f"error: {server.address}/jul-2021/ref_batches/tiny/VIRTUAL_tiny.npz cannot be fetched: "
        "the server answers 404 Not Found; try again, or fetch it by other means and put it at "
        f"{file}"
    ]
