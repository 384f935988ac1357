"""Several processes as one: how they meet, that they compute what one does, and how they end."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ddpm_jax.commands import evaluate, sample, train
from ddpm_jax.errors import UserError
from ddpm_jax.generation.output_folder import UNFINISHED
from ddpm_jax.runtime import processes
from ddpm_jax.runtime.script import run_script

ROOT = Path(__file__).resolve().parents[2]
THREE = (processes.ADDRESS, processes.COUNT, processes.INDEX)
# Points and a perceptron compile fast; 100 steps, so that errors that grow would be seen.
POINTS = """
--config configs/s_curve.py --model.channels 16 --model.num-res-blocks 2 --diffusion.timesteps 50
--sample.steps 10 --sample.num 64 --train.batch-size 32 --train.steps 100 --train.log-every-steps 1
--train.learning-rate-decay constant --train.checkpoint-every-steps 50
--train.sample-every-steps 100
""".split()
# A U-Net with all that a run can have, its parameters and its batches split over the processes.
PICTURES = """
--data.image-size 8 --data.channels 1 --data.held-out 25% --model.num-classes 0
--diffusion.label-dropout 0 --model.channels 48 --model.norm-groups 8 --model.channel-mult 1
--model.dropout 0.1 --diffusion.timesteps 50 --sample.steps 5 --sample.num 4 --sample.batch-size 8
--train.batch-size 8 --train.log-every-steps 1 --train.learning-rate-decay constant
--train.checkpoint-every-steps 0 --train.sample-every-steps 6 --train.validate-every-steps 6
""".split()


def environ(**values: str) -> dict[str, str]:
    return {processes.ADDRESS: "host:1", processes.COUNT: "2", processes.INDEX: "1"} | values


def test_a_process_alone_contacts_nobody():
    assert processes.arguments({"PATH": "/bin"}) is None
    assert processes.arguments(environ(JAX_NUM_PROCESSES="1", JAX_PROCESS_ID="0")) is None
    launched_alone = {"SLURM_STEP_NODELIST": "node1", "SLURM_NTASKS": "1"}
    assert processes.arguments(launched_alone) is None
    processes.join(environ={})
    assert not jax.distributed.is_initialized() and processes.is_main_process()
    assert processes.all_gather_objects(3) == [3] and processes.on_main_process(lambda: 4) == 4


def test_the_environment_says_where_the_processes_meet():
    assert processes.arguments(environ()) == {
        "coordinator_address": "host:1",
        "num_processes": 2,
        "process_id": 1,
        "cluster_detection_method": "deactivate",  # JAX would ask launchers for what is given
    }
    slurm = {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}
    assert processes.arguments(slurm) == {}  # JAX finds all by itself
    there = slurm | {processes.ADDRESS: "other:99"}
    assert processes.arguments(there) == {"coordinator_address": "other:99"}
    mpi = {"OMPI_MCA_orte_hnp_uri": "0.0;tcp://10.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "4"}
    assert processes.arguments(mpi) == {}


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        (processes.COUNT, "two", "must be a number from 1"),
        (processes.COUNT, "0", "must be a number from 1"),
        (processes.INDEX, "-1", "must be a number from 0"),
        (processes.INDEX, "2", "must be below JAX_NUM_PROCESSES, 2"),
        (processes.INDEX, "", "not JAX_PROCESS_ID"),
        (processes.COUNT, "", "not JAX_NUM_PROCESSES"),
        (processes.ADDRESS, "", "not JAX_COORDINATOR_ADDRESS"),
        (processes.ADDRESS, "host", "must be host:port"),
        (processes.ADDRESS, "host:99999", "must be host:port"),
        (processes.ADDRESS, ":80", "must be host:port"),
    ],
)
def test_wrong_variables_are_named(variable, value, says, monkeypatch, capsys, tmp_path):
    for name, each in environ(**{variable: value}).items():
        monkeypatch.setenv(name, each)
    with pytest.raises(UserError, match=says):
        processes.arguments(os.environ)
    monkeypatch.setattr(sys, "argv", ["train.py", "--workdir", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        run_script(train.main)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and variable in error
    assert not (tmp_path / "run").exists()


def test_who_waits_in_vain_says_so():
    script = (
        "from ddpm_jax.runtime import processes, script; processes.JOIN_SECONDS = 1; "
        "script.run_script(processes.join)"
    )
    given = environ(JAX_COORDINATOR_ADDRESS=f"localhost:{free_port()}")
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=os.environ | given, capture_output=True
    )
    error = done.stderr.decode()
    assert done.returncode == 2 and error.count("\n") == 1, error
    assert "process 1 waited 1 s in vain" in error and given[processes.ADDRESS] in error


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start_two(
    workdir: Path, *options: str, script: str = "train.py", second: tuple[str, ...] = ()
) -> list[subprocess.Popen]:
    """A script, with --workdir, as two processes of four devices each; options of the `second`."""
    shared = environ(JAX_COORDINATOR_ADDRESS=f"localhost:{free_port()}", JAX_NUM_CPU_DEVICES="4")
    return [
        subprocess.Popen(
            [
                sys.executable,
                script,
                "--workdir",
                str(workdir),
                *options,
                *(second if index else ()),
            ],
            cwd=ROOT,
            env=os.environ | shared | {processes.INDEX: str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def end(both: list[subprocess.Popen]) -> list[str]:
    """What each wrote to stdout, but for lines of the library that connects them."""
    ended = [process.communicate(timeout=900) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    lines = (out.splitlines() for out, _ in ended)
    return ["\n".join(line for line in of if not line.startswith("[Gloo]")) for of in lines]


def run_here(workdir: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> list[dict]:
    """train.py in this process; returns its records."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--workdir", str(workdir), *options])
    monkeypatch.chdir(ROOT)
    train.main()
    return records(workdir)


def records(workdir: Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def losses(workdir: Path, name: str = "loss") -> list[float]:
    return [record[name] for record in records(workdir) if name in record]


def picture(workdir: Path, step: int) -> np.ndarray:
    return np.asarray(Image.open(workdir / "samples" / f"step_{step:08d}.png")).astype(int)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that two processes of four devices made of POINTS."""
    workdir = tmp_path_factory.mktemp("runs") / "two"
    first, second = end(start_two(workdir, *POINTS))
    assert "on 8 cpu device(s)" in first and "finished after step 100" in first
    assert not second
    return workdir


@pytest.mark.parametrize("devices", [1, 8])
def test_two_processes_compute_what_one_does_on_any_devices(two, devices, tmp_path, monkeypatch):
    *_, finished = run_here(tmp_path, monkeypatch, *POINTS, "--parallel.data", str(devices))
    assert len(losses(two)) == 100
    np.testing.assert_allclose(losses(tmp_path), losses(two), rtol=1e-5)
    assert finished["step"] == 100 and records(two)[-1]["event"] == "finished"
    assert (picture(tmp_path, 100) != picture(two, 100)).mean() < 1e-3  # points on white


@pytest.mark.slow  # a minute of six processes
def test_both_stop_or_end_with_one_and_resume_to_the_same_state(two, tmp_path):
    workdir = tmp_path / "stopped"

    def wait_for_step(step: int, both: list[subprocess.Popen]) -> None:
        deadline = time.monotonic() + 600
        while len(losses(workdir)) < step:
            assert time.monotonic() < deadline and all(each.poll() is None for each in both)
            time.sleep(0.01)

    both = start_two(workdir, *POINTS)
    wait_for_step(3, both)
    both[1].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [75, 75], errors
    said = [re.findall(r"stopped by SIGTERM after step (\d+), saved;", each) for each in errors]
    [reached], [same] = said
    assert reached == same and (workdir / "checkpoints" / reached).exists()

    both, kept = start_two(workdir, *POINTS), max(50, int(reached))
    wait_for_step(kept + 3, both)
    while not (workdir / "checkpoints" / str(kept)).exists():
        wait_for_step(len(losses(workdir)) + 1, both)
    # Between two steps: amid one, Gloo may hang until JAX has missed the process for 100 s.
    both[1].send_signal(signal.SIGKILL)
    out, error = both[0].communicate(timeout=300)
    assert both[0].returncode == 1 and "stopped: " in error, out + error
    both[1].communicate()

    first, second = end(start_two(workdir, *POINTS))
    assert f"resumed after step {kept}" in first and not second
    assert records(workdir)[-1] == records(two)[-1]  # bit for bit: its digests too


def test_processes_that_were_started_differently_say_so(tmp_path):
    both = start_two(tmp_path / "run", *POINTS, second=("--train.seed", "1"))
    for process in both:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 2, error
        assert "error: train.seed is 0 in process 0 and 1 in process 1: start all" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # a minute and a half of four processes
def test_two_processes_share_parameters_pictures_and_what_is_broken(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for name in ("data", "copy"):  # a copy, for one process remembers what is broken
        (tmp_path / name).mkdir()
    for i in range(40):
        pixels = rng.integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{i:02d}.png")
    (tmp_path / "data" / "17.png").write_bytes(b"no picture")
    options = [*PICTURES, "--data.name", f"folder:{tmp_path / 'data'}", "--train.steps"]
    split = ["--parallel.data", "1", "--parallel.fsdp", "8"]
    first, _ = end(start_two(tmp_path / "two", *options, "6", *split))
    assert "1 of 30 images were broken and left out" in first

    run_here(tmp_path / "one", monkeypatch, *options, "6")
    for name in ("loss", "held_out_loss"):
        ours, theirs = losses(tmp_path / "two", name), losses(tmp_path / "one", name)
        assert ours
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert np.abs(picture(tmp_path / "two", 6) - picture(tmp_path / "one", 6)).max() <= 1

    # What two processes kept in parts one process takes up whole.
    shutil.copytree(tmp_path / "two", tmp_path / "alone")
    resumed = run_here(tmp_path / "alone", monkeypatch, *options, "8")
    whole = run_here(tmp_path / "one", monkeypatch, *options, "8")
    ours, theirs = ([r["loss"] for r in of if "loss" in r] for of in (resumed, whole))
    assert len(ours) == 8
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.slow  # over a minute of six processes
def test_two_processes_draw_and_evaluate_what_one_does(tiny_run, tmp_path, monkeypatch):
    drawing = ["--num", "40", "--batch-size", "8", "--frames", "3", "--steps", "20", "--out"]
    out = tmp_path / "two"
    both = start_two(tiny_run, *drawing, str(out), script="sample.py")
    deadline = time.monotonic() + 300
    while len(list(out.glob(f"{UNFINISHED}/*/*.npz"))) < 2:
        assert time.monotonic() < deadline and all(each.poll() is None for each in both)
        time.sleep(0.001)
    both[1].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [75, 75], errors
    assert all("stopped by SIGTERM; the same command goes on\n" in error for error in errors)
    assert not (out / "samples.npz").exists()

    (out / "images").write_text("in the way of a folder, for the first, which writes the files")
    both = start_two(tiny_run, *drawing, str(out), script="sample.py")
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [1, 1], errors
    assert all("stopped: [Errno 17] File exists" in error for error in errors)

    (out / "images").unlink()
    first, second = end(start_two(tiny_run, *drawing, str(out), script="sample.py"))
    assert "40 samples" in first and not second

    def alone(script, *options: str) -> None:
        arguments = ["script", "--workdir", str(tiny_run), *options]
        monkeypatch.setattr(sys, "argv", arguments)
        script.main()

    alone(sample, *drawing, str(tmp_path / "one"))
    files = [{path.name for path in (tmp_path / each).rglob("*")} for each in ("one", "two")]
    assert files[0] == files[1]
    with np.load(tmp_path / "one/samples.npz") as a, np.load(tmp_path / "two/samples.npz") as b:
        np.testing.assert_array_equal(a["arr_0"], b["arr_0"])  # 8 devices in both

    judging = ["--num", "24", "--batch-size", "8", "--out"]
    end(start_two(tiny_run, *judging, str(tmp_path / "bpd_two"), script="evaluate.py"))
    alone(evaluate, *judging, str(tmp_path / "bpd_one"))
    bounds = [json.loads((tmp_path / f"bpd_{n}/bpd.json").read_text()) for n in ("one", "two")]
    assert bounds[0]["examples"] == 24
    np.testing.assert_allclose(bounds[1]["vb"], bounds[0]["vb"], rtol=1e-5)

    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pixels.py").write_text("def flat(images): return images.reshape(len(images), -1)")
    features = "--features pixels:flat --metrics frechet,precision".split()
    judging = [*features, "--num", "24", "--batch-size", "8", "--out"]
    copies = [shutil.copytree(tiny_run, tmp_path / f"run_{n}") for n in ("one", "two")]
    monkeypatch.setattr(sys, "argv", ["", "--workdir", str(copies[0]), *judging, "metrics_one"])
    monkeypatch.chdir(tmp_path)
    evaluate.main()
    end(start_two(copies[1], *judging, str(tmp_path / "metrics_two"), script="evaluate.py"))
    found = [
        json.loads((tmp_path / f"metrics_{n}/metrics.json").read_text()) for n in ("one", "two")
    ]
    assert found[0]["rows"][0] | {"name": ""} == found[1]["rows"][0] | {"name": ""}
