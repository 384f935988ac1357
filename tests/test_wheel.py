"""The wheel works without the checkout: in a fresh environment, and in an empty folder."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TINY = """
--model.channels 8 --model.norm-groups 8 --model.channel-mult 1 --diffusion.timesteps 20
--sample.steps ddim5 --sample.num 4 --train.batch-size 8 --train.steps 4 --train.log-every-steps 2
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an environment `venv`, into which the wheel is installed, and `empty`.

    The dependencies are those of this environment; the package comes from the wheel alone.
    """
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", place, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    venv.create(place / "venv", with_pip=True)
    python = place / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--no-deps", wheel], check=True, capture_output=True
    )
    (site,) = place.glob("venv/lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (place / "empty").mkdir()
    found = start(place, "-c", "import ddpm_jax; print(ddpm_jax.__file__)")
    assert Path(found.strip()).is_relative_to(site)
    return place


def start(place: Path, *words: str) -> str:
    """What Python of the environment prints, in the empty folder."""
    done = subprocess.run(
        [place / "venv" / "bin" / "python", *words],
        cwd=place / "empty",
        env={name: text for name, text in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow  # builds the wheel and starts seven processes
def test_a_wheel_trains_samples_evaluates_edits_and_reports_in_an_empty_folder(installed):
    def ddpm_jax(command: str) -> str:
        return start(installed, "-m", "ddpm_jax", *command.split())

    assert "trains a model" in ddpm_jax("--help")
    assert "35,746,307 parameters" in ddpm_jax("train --config cifar10 --dry-run")
    assert "finished after step 4: runs/digits" in ddpm_jax(f"train {TINY}")
    assert "2 samples in runs/digits/drawn" in ddpm_jax("sample runs/digits --num 2")
    bound = ddpm_jax("evaluate runs/digits --metrics bpd --num 8")
    assert "bits per dimension (8 examples" in bound
    assert "runs/digits/vary/grid.png" in ddpm_jax("edit vary runs/digits --images data --num 2")
    assert ddpm_jax("report runs/digits") == "runs/digits/report.html\n"
    run = installed / "empty" / "runs" / "digits"
    page = (run / "report.html").read_text()
    assert "4 of 4, finished" in page and "python -m ddpm_jax sample --workdir runs/digits" in page
    assert (run / "drawn" / "grid.png").is_file()


@pytest.mark.slow
def test_a_wheel_has_every_config(installed):
    (theirs,) = installed.glob("venv/lib/python*/site-packages/ddpm_jax/configs")
    ours = {file.name: file.read_text() for file in (ROOT / "configs").glob("*.py")}
    assert {file.name: file.read_text() for file in theirs.glob("*.py")} == ours
