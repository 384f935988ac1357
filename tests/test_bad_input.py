"""Wrong commands, wrong files and damaged files: one clear line each, exit code 2, nothing lost."""

import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ddpm_jax.commands import sample, train
from ddpm_jax.data import prepare
from ddpm_jax.runtime.script import run_script
from tests.tiny_tfds import write_tfds

ROOT = Path(__file__).resolve().parent.parent

CONFIG_FILES = {
    "no_get_config.py": "settings = 1",
    "raises.py": "def get_config():\n    raise ValueError('first line\\nsecond line')",
    "exits.py": "raise SystemExit(0)",
    "imports.py": "import no_such_module",
    "returns_a_dict.py": "def get_config():\n    return {'steps': 3}",
    "broken.py": "def get_config(:",
    "settings.json": "{}",
    "unknown_field.py": """
from ddpm_jax.config import Config, TrainConfig
def get_config():
    return Config(train=TrainConfig(batchsize=3))
""",
    "ill_typed.py": """
from ddpm_jax.config import Config, TrainConfig
def get_config():
    return Config(train=TrainConfig(batch_size="64"))
""",
    "no_section.py": """
from ddpm_jax.config import Config
def get_config():
    return Config(train=None)
""",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wrong files; commands are run in it, and must leave it as it is."""
    place = tmp_path_factory.mktemp("place")
    (place / "configs").mkdir()
    for name, text in CONFIG_FILES.items():
        (place / "configs" / name).write_text(text)
    (place / "file").write_text("no folder")
    (place / "empty").mkdir()
    (place / "lost").mkdir()
    (place / "lost" / "checkpoints").write_text("no folder")
    picture = np.zeros((6, 6, 3), np.uint8)
    (place / "mixed" / "cats").mkdir(parents=True)
    for name in ("stray.png", "cats/1.png"):
        Image.fromarray(picture).save(place / "mixed" / name)
    label = tfds.features.ClassLabel(names=["ant", "bee"])
    features = {"image": tfds.features.Image(shape=(6, 6, 3)), "label": label}
    write_tfds(place / "sets", "tiny", features, {"train": [{"image": picture, "label": 1}]})
    return place


def call(
    main: Callable[[], None],
    command: str | list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> tuple[int, str]:
    """Exit code and stderr of a script's main function, without starting a process."""
    words = command.split() if isinstance(command, str) else command
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    capsys.readouterr()
    try:
        run_script(main)
    except SystemExit as end:
        return end.code, capsys.readouterr().err
    return 0, capsys.readouterr().err


def start(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A script as a process of its own."""
    script, *words = map(str, command)
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )


def without_progress(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if " gone, " not in line]


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file below `folder`; folders too, without one."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in sorted(folder.rglob("*"))
    }


# A command, and what its one line on stderr must say.
TRAIN = [
    # Config files
    ("--config configs/no_get_confg.py", r"no such file; did you mean configs/no_get_config\.py\?"),
    ("--config elsewhere/digit.py", r"elsewhere/digit\.py: no such file; did you mean digits\?"),
    ("--config digist", r"digist: no such file; did you mean digits\? there are: .*, cifar10, "),
    ("--config elsewhere/qqqq", r"no such file; there are: .*cifar10, .*s_curve"),
    ("--config empty", "empty: no such file; there are: "),
    ("--config", "--config: expected one argument"),
    ("--config configs/no_get_config.py", "no attribute 'get_config'"),
    ("--config configs/raises.py", "raises.py: ValueError: first line second line"),
    ("--config configs/exits.py", "exits.py: SystemExit: 0"),
    ("--config configs/imports.py", "No module named 'no_such_module'"),
    ("--config configs/returns_a_dict.py", r"must return a ddpm_jax\.config\.Config"),
    ("--config configs/broken.py", r"SyntaxError: .*broken\.py, line 1"),
    ("--config configs/settings.json", r"not a Python file; name one that defines get_config"),
    ("--config configs/unknown_field.py", "'batchsize'; did you mean batch_size?"),
    ("--config configs/ill_typed.py", r"train\.batch_size is '64', expected int"),
    ("--config configs/no_section.py", r"train is None, expected the fields of a section"),
    # Data
    ("--data.name digit", r"'digit'; it must be digits, .* folder:PATH; did you mean digits\?"),
    ("--data.name folders:images", r"did you mean folder:images\?"),
    ("--data.name folder:", r"did you mean folder:PATH\?"),
    (
        "--data.name folder:nowhere",
        r"folder nowhere does not exist; check --data\.name folder:nowhere",
    ),
    ("--data.name folder:empty", "folder empty has no PNG, JPEG or WebP images; put some there"),
    ("--data.name folder:file", "file is a file; data.name must be folder:PATH"),
    ("--data.name tfds:mnist --data.dir nowhere", r"not prepared in nowhere; set --data\.dir, or "),
    ("--data.name tfds:mnist --data.dir nowhere", r"`pip install 'ddpm-jax\[prepare\]'`"),
    ("--train.wandb-project trial", r"trial needs `pip install 'ddpm-jax\[wandb\]'`"),
    ("--data.name tfds:tiny --data.dir sets", r"has 3 channels; set --data\.channels 3"),
    (
        "--data.name tfds:tiny --data.dir sets --data.channels 3 --data.split val",
        "data.split is 'val', but the splits of tfds:tiny are train",
    ),
    (
        "--data.name tfds:tiny --data.dir sets --data.channels 3",
        r"--model\.num-classes 10: tfds:tiny \(split train\) has 2 classes; set it to 2",
    ),
    (
        "--data.name folder:mixed --data.channels 3",
        r"has no labels, because stray\.png lies beside 1 folder of images: move it into",
    ),
    ("--data.held-out 150%", r"--data\.held-out 150%: must be above 0% and below 100%"),
    ("--data.channels 3", r"digits has 1 channel; set --data\.channels 1"),
    ("--data.channels 2", r"--data\.channels 2: must be 1 \(grey\) or 3"),
    ("--model.num-classes 5", r"--model\.num-classes 5: digits has 10 classes; set it to 10"),
    (
        "--data.image-size 7 --model.channel-mult 1 2",
        r"--data\.image-size 7: must be a multiple of 2",
    ),
    ("--data.image-size 0", r"--data\.image-size 0: must be at least 1"),
    # Network and process
    ("--model.norm-groups 3", r"--model\.norm-groups 3: must be a divisor of the width of every"),
    ("--model.num-heads 3", r"--model\.num-heads 3: must be a divisor of the width of every"),
    ("--model.attention-resolutions 5", r"-resolutions 5: must be among the sides .* \[8\]"),
    ("--model.channel-mult", r"--model\.channel-mult \(\): must be one positive number or more"),
    ("--model.channel-mult nan", r"--model\.channel-mult \(nan,\): must be finite"),
    ("--model.kind mlp", r"--model\.kind mlp: must be unet for --data\.name digits"),
    ("--data.name s_curve", r"--model\.kind unet: must be mlp for --data\.name s_curve"),
    (
        "--diffusion.schedule linear --diffusion.timesteps 10",
        r"linear with --diffusion\.timesteps 10: betas must be in \(0, 1\], not 0\.01\.\.2",
    ),
    ("--diffusion.timesteps 1", r"--diffusion\.timesteps 1: must be at least 2"),
    ("--model.num-classes 0", r"--diffusion\.label-dropout 0\.1: must be 0 without --model\.num-c"),
    ("--diffusion.label-dropout 1.5", r"label-dropout 1\.5: must be in \[0, 1\)"),
    ("--sample.steps ddim7777", 'steps "ddim7777": .*; a number up to 20, .* are understood'),
    # Optimisation and devices
    ("--train.batch-size 0", r"--train\.batch-size 0: must be at least 1"),
    ("--train.seed -1", r"--train\.seed -1: must be in \[0, 2\^32\)"),
    ("--train.learning-rate 0", r"--train\.learning-rate 0\.0: must be above 0"),
    ("--train.learning-rate nan", r"--train\.learning-rate nan: must be finite"),
    ("--train.extra-ema-decays 0.9 1", r"-ema-decays \(0\.9, 1\.0\): must be in \(0, 1\), none"),
    ("--train.extra-ema-decays 0.9 0.9", r"-ema-decays \(0\.9, 0\.9\): must be .* none of them tw"),
    ("--train.ema-decay 0.9 --train.extra-ema-decays 0.9", "none that of --train.ema-decay"),
    ("--train.grad-accumulation-steps 3", r"-steps 3: must be a divisor of the batch 8"),
    (
        "--train.batch-size 9 --parallel.data 2",
        "a batch of 9 cannot be split evenly over 2 devices",
    ),
    ("--parallel.data 64", r"--parallel\.data 64 --parallel\.fsdp 1: there are only 8 devices"),
    ("--parallel.fsdp 64", r"--parallel\.fsdp 64: there are only 8 devices"),
    # Run folders
    ("--workdir file", r"--workdir file cannot be written: File exists"),
    ("--workdir file/below", r"--workdir file/below cannot be written: Not a directory"),
    (["--workdir", ""], r"--workdir is empty; give a path"),
]

SAMPLE = [
    (["--workdir", "nowhere"], "nowhere is no run folder: it has no config.json; name the"),
    ("--labels 3,10", "--labels 3,10: 10 is not among 0..9"),
    ("--labels=-1", "--labels -1: -1 is not among 0..9"),
    ("--labels three", "--labels three: three is no class; give numbers as in 3,7 or 0-9"),
    ("--labels 3,", "--labels 3,: nothing is no class; give numbers as in 3,7 or 0-9"),
    ("--steps 0", 'steps "0": a chain needs at least 2 timesteps'),
    ("--steps 1", 'steps "1": a chain needs at least 2 timesteps'),
    ("--steps=-3", 'steps "-3": cannot divide section of 20 steps into -3'),
    ("--steps 21", 'steps "21": cannot divide section of 20 steps into 21'),
    ("--steps ddim7777", 'steps "ddim7777": .*, or ddimN are understood'),
    ("--steps abc", 'steps "abc": .*; a number up to 20, counts of equal sections as in 10,15,20'),
    ("--num 0", "--num 0: must be at least 1"),
    ("--seed -1", "--seed -1: must be at least 0"),
    ("--seed 4294967296", r"--seed 4294967296: must be at least 0 and below 2\^32"),
    ("--frames -1", "--frames -1: must be at least 0"),
    ("--batch-size 0", r"batch-size 0: must be at least 1"),
    ("--eta -0.5", r"eta -0\.5: must be in \[0, 1\]"),
    ("--sampler ddim --eta 1.5", r"--eta 1\.5: must be in \[0, 1\]"),
    ("--sampler dpmm_2m", r"--sampler dpmm_2m: unknown sampler.*there are: ddpm.*mean dpmpp_2m\?"),
    ("--sampler dpmpp_2m --steps ddim5", 'steps "ddim5": must be a number from 2 to 20, placed by'),
    ("--sampler unipc --steps 1", 'steps "1": must be a number from 2 to 20'),
    ("--sampler heun --eta 0.5", r"--eta 0\.5: must be 0 but for --sampler ddim"),
    ("--spacing karas", r"--spacing karas: did you mean karras\? there are: respaced, trailing"),
    ("--checkpoint 5", r"no checkpoint of step 5; there are: \[2, 4, 6\]"),
    ("--eta nan", r"eta nan: must be finite"),
    (["--out", ""], "--out is empty; give a path"),
    ("--out= --num 3", "--out is empty; give a path"),
    (["--low-res", ""], "--low-res is empty; give a path"),
    ("--out file", "--out file cannot be written: File exists"),
    ("--out file/below", "--out file/below cannot be written: Not a directory"),
]

# tyro answers these, in a box of its own.
OPTIONS = [
    (
        train.main,
        "--train.batchsize 3",
        r"Unrecognized options: --train\.batchsize.*--train\.batch-size",
    ),
    (train.main, "--train.batch_sizes 3", r"Unrecognized options.*--train\.batch-size INT"),
    (train.main, "--train.steps many", r"--train\.steps: 'many' is no whole number; give one"),
    (train.main, "--model.dtype float16", r"invalid choice 'float16'.*'float32', 'bfloat16'"),
    (train.main, "--data.flip perhaps", r"invalid choice 'perhaps'.*'True'"),
    (train.main, "--dry-run --data.nam x stray", "Unrecognized options: --data.nam, x, stray"),
    (sample.main, "--num 3", "give a run folder, as --workdir DIR, or a published model"),
    (
        sample.main,
        "--workdir x --workdri y",
        r"Unrecognized options.*--workdir \{?(None\}?\|)?PATH",
    ),
    (train.main, "--sample.sampler quux", "unknown sampler: quux; there are: ddpm, "),
    (sample.main, "--workdir x --num many", "--num: 'many' is no whole number"),
]


def check_one_line(code: int, stderr: str, pattern: str) -> None:
    assert code == 2, stderr
    assert "Traceback" not in stderr
    (line,) = without_progress(stderr)
    assert re.search(pattern, line), line


@pytest.mark.parametrize(("command", "pattern"), TRAIN, ids=lambda value: str(value)[:40])
def test_training_refuses_in_one_line(
    command, pattern, place, tiny_options, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(place)
    if "tfds:mnist" in command or "wandb" in command:  # whether they are installed or not
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    before = contents(place)
    words = command.split() if isinstance(command, str) else command
    options = ["--workdir", "run", *tiny_options, *words]
    check_one_line(*call(train.main, options, monkeypatch, capsys), pattern)
    assert contents(place) == before


@pytest.mark.parametrize(("command", "pattern"), SAMPLE, ids=lambda value: str(value)[:40])
def test_sampling_refuses_in_one_line(
    command, pattern, place, tiny_run, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(place)
    before = contents(place), contents(tiny_run)
    words = command.split() if isinstance(command, str) else command
    options = ["--workdir", str(tiny_run), *words]
    check_one_line(*call(sample.main, options, monkeypatch, capsys), pattern)
    assert (contents(place), contents(tiny_run)) == before


@pytest.mark.parametrize(("main", "command", "pattern"), OPTIONS)
def test_an_option_that_does_not_exist_or_fit_is_answered_by_what_would(
    main, command, pattern, monkeypatch, capsys
) -> None:
    code, stderr = call(main, command, monkeypatch, capsys)
    assert code == 2 and "Traceback" not in stderr
    assert re.search(pattern, " ".join(re.sub("[│─╭╮╰╯├┤]", " ", stderr).split())), stderr


def test_a_set_cannot_be_prepared_without_tensorflow(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # put back afterwards
    check_one_line(
        *call(prepare.main, f"mnist --dir {tmp_path}", monkeypatch, capsys),
        r"cannot import TensorFlow .*`pip install -e '.\[prepare\]'`",
    )


def test_processes_of_their_own_refuse_in_one_line_too(place) -> None:
    done = start("train.py", "--config", "configs/digit.py")
    check_one_line(done.returncode, done.stderr, r"did you mean configs/digits\.py\?")
    done = start("sample.py", "--workdir", place / "nowhere")
    check_one_line(done.returncode, done.stderr, "nowhere is no run folder")


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run that may be damaged."""
    return shutil.copytree(tiny_run, tmp_path / "copy")


def test_another_config_than_that_of_the_run_is_named(
    copy, tiny_options, monkeypatch, capsys
) -> None:
    before = contents(copy)
    options = [*tiny_options, "--model.channels", "16", "--train.seed", "3"]
    check_one_line(
        *call(train.main, ["--workdir", str(copy), *options], monkeypatch, capsys),
        r"another config \(model\.channels 8 -> 16, train\.seed 0 -> 3\): choose another --workdir",
    )
    assert contents(copy) == before


def test_a_refused_command_leaves_the_run_folder_free_for_the_right_one(
    tmp_path, tiny_options, monkeypatch, capsys
) -> None:
    workdir = tmp_path / "run"
    command = ["--workdir", str(workdir), *tiny_options, "--train.steps", "0"]
    code, _ = call(train.main, [*command, "--sample.steps", "99"], monkeypatch, capsys)
    assert code == 2 and not workdir.exists()
    assert call(train.main, command, monkeypatch, capsys)[0] == 0


@pytest.mark.parametrize("what", ["no folder", "empty folder", "file"])
def test_a_run_without_checkpoints_cannot_be_sampled(what, copy, monkeypatch, capsys) -> None:
    shutil.rmtree(copy / "checkpoints")
    if what == "empty folder":
        (copy / "checkpoints").mkdir()
    elif what == "file":
        (copy / "checkpoints").write_text("no folder")
    check_one_line(
        *call(sample.main, f"--workdir {copy}", monkeypatch, capsys),
        "checkpoints holds no checkpoint: train first, or name another --workdir",
    )
    assert not (copy / "drawn").exists()


def test_checkpoints_cannot_be_kept_in_a_file(place, tiny_options, monkeypatch, capsys) -> None:
    options = ["--workdir", str(place / "lost"), *tiny_options]
    check_one_line(
        *call(train.main, options, monkeypatch, capsys),
        "cannot keep checkpoints in .*lost/checkpoints: File exists",
    )


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("{", "Expecting property name"),
        ("[]", r"Config is \[\], expected the fields of a section"),
        ("3", "Config is 3, expected the fields of a section"),
        ('{"model": {"chanels": 8}}', "unknown ModelConfig fields: chanels"),
        ('{"model": {"channels": "8"}}', r"model\.channels is '8', expected int"),
        ('{"model": {"channels": 8.5}}', r"model\.channels is 8\.5, expected int"),
        ('{"train": {"seed": null}}', r"train\.seed is None, expected int"),
        (
            '{"diffusion": {"schedule": "x"}}',
            r"diffusion\.schedule is 'x', expected Literal\['linear', .*",
        ),
    ],
)
@pytest.mark.parametrize("script", ["train", "sample"])
def test_an_unreadable_run_config_says_what_is_wrong(
    script, text, pattern, copy, tiny_options, monkeypatch, capsys
) -> None:
    (copy / "config.json").write_text(text)
    before = contents(copy)
    main, options = (train.main, tiny_options) if script == "train" else (sample.main, [])
    check_one_line(
        *call(main, ["--workdir", str(copy), *options], monkeypatch, capsys),
        r"config\.json cannot be read: " + pattern,
    )
    assert contents(copy) == before


@pytest.mark.parametrize(
    ("field", "value", "pattern"),
    [
        (
            "channels",
            16,
            r"6 is of another model: input_blocks\.0\.0\.bias is \(8,\), expected \(16,\); "
            r"input_blocks.* is .*; .* is .*, and \d+ more",
        ),
        ("num_classes", 0, r"of another model: label_emb\.embedding is .*, expected nothing"),
        ("channel_mult", [1, 2], r"another model: .* is missing, expected \(.*\)"),
    ],
)
@pytest.mark.parametrize("script", ["train", "sample"])
def test_a_checkpoint_of_another_model_is_named_with_its_shapes(
    script, field, value, pattern, copy, tiny_options, monkeypatch, capsys
) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["model"][field] = value
    config["diffusion"]["label_dropout"] = 0.0
    (copy / "config.json").write_text(json.dumps(config))
    main, options = sample.main, []
    if script == "train":
        written = value if isinstance(value, list) else [value]
        options = [f"--model.{field.replace('_', '-')}", *map(str, written)]
        options = [*tiny_options, "--diffusion.label-dropout", "0", *options]
        main = train.main
    check_one_line(*call(main, ["--workdir", str(copy), *options], monkeypatch, capsys), pattern)
    assert json.loads((copy / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 6


def empty_every_file(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def halve_the_arrays(folder: Path) -> None:
    for path in folder.glob("*/**/d/*"):
        os.truncate(path, path.stat().st_size // 2)


def delete_the_arrays(folder: Path) -> None:
    for path in folder.glob("*/d"):
        shutil.rmtree(path)


def delete_the_items(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def scribble_over_the_descriptions(folder: Path) -> None:
    for path in folder.rglob("_METADATA"):
        path.write_text("{")


DAMAGES = [
    empty_every_file,
    halve_the_arrays,
    delete_the_arrays,
    delete_the_items,
    scribble_over_the_descriptions,
]


def test_half_written_checkpoints_are_named_and_training_goes_on(copy, tiny_options) -> None:
    (copy / "checkpoints" / "7.orbax-checkpoint-tmp-1790000000000000").mkdir()
    shutil.rmtree(copy / "checkpoints" / "6")
    done = start("train.py", "--workdir", copy, *tiny_options)
    assert done.returncode == 0
    assert without_progress(done.stderr) == [
        "checkpoint 7 was half-written when the run stopped: not used"
    ]
    assert "resumed after step 4" in done.stdout and "finished after step 6" in done.stdout
    assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == ["2", "4", "6"]


@pytest.mark.slow  # of checkpoints alone: runs/test_checkpoints.py
def test_a_damaged_checkpoint_makes_way_for_the_one_before(copy, tiny_options, tiny_run) -> None:
    halve_the_arrays(copy / "checkpoints" / "6")
    done = start("sample.py", "--workdir", copy, "--num", "2")
    assert done.returncode == 0
    (line,) = without_progress(done.stderr)
    assert re.search(r"checkpoint .*checkpoints/6 cannot be read \(.*\): 4 is used", line)
    assert (copy / "drawn" / "samples.npz").exists()

    done = start("train.py", "--workdir", copy, *tiny_options)
    assert done.returncode == 0
    (line,) = without_progress(done.stderr)
    assert re.search(r"checkpoint .*checkpoints/6 cannot be read \(.*\): 4 is used", line)
    assert "resumed after step 4" in done.stdout
    ends = [(run / "metrics.jsonl").read_text().splitlines()[-1] for run in (copy, tiny_run)]
    assert ends[0] == ends[1]  # it was trained again to the same weights
    assert start("sample.py", "--workdir", copy, "--num", "2").stderr.count("cannot be read") == 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damage_is_told_in_one_line(damage, copy, monkeypatch, capsys, caplog) -> None:
    damage(copy / "checkpoints" / "6")
    code, stderr = call(sample.main, f"--workdir {copy} --num 2", monkeypatch, capsys)
    assert code == 0 and without_progress(stderr) == []
    (message,) = caplog.messages
    assert re.fullmatch(r"checkpoint .*/6 cannot be read \(.+\): 4 is used", message)


def test_nothing_is_changed_when_every_checkpoint_is_damaged(copy, tiny_options) -> None:
    for folder in (copy / "checkpoints").iterdir():
        halve_the_arrays(folder)
    before = contents(copy)
    for command in (["sample.py"], ["train.py", *tiny_options]):
        done = start(*command, "--workdir", copy)
        pattern = "none of the 3 checkpoints in .* can be read; nothing was changed: move the"
        check_one_line(done.returncode, done.stderr, pattern)
        assert contents(copy) == before


def picture(path: Path, *shape: int) -> None:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(len(shape)).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path)


def break_images(folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    names = ("cut.jpg", "empty.webp", "text.png", "pipe.png", "bomb.png")
    broken = [folder / name for name in names]
    picture(broken[0], 64, 64, 3)
    os.truncate(broken[0], broken[0].stat().st_size // 2)
    broken[1].write_bytes(b"")
    broken[2].write_text("not an image")
    os.mkfifo(broken[3])
    Image.new("1", (20_000, 20_000)).save(broken[4])  # 50 kB
    return broken


FOLDER = "--model.num-classes 0 --diffusion.label-dropout 0 --train.steps 4 --data.name"


@pytest.mark.slow  # of the pipeline alone: data/test_folder.py
def test_training_goes_on_without_broken_images_and_fits_the_others(
    tmp_path, tiny_options, monkeypatch, capsys, caplog
) -> None:
    folder = tmp_path / "images"
    broken = break_images(folder)
    sizes = [(8, 8), (8, 8, 3), (30, 11, 3), (9, 40, 4), (5, 5)]
    for i in range(495):  # one in a hundred is broken
        picture(folder / f"{i}.png", *sizes[i % len(sizes)])
    epoch = "--train.steps 8 --train.batch-size 64 --train.checkpoint-every-steps 0".split()
    options = ["--workdir", str(tmp_path / "run"), *tiny_options, *FOLDER.split()]
    monkeypatch.setattr(sys, "argv", ["train.py", *options, f"folder:{folder}", *epoch])
    run_script(train.main)
    assert "5 of 500 images were broken and left out" in capsys.readouterr().out
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 5
    for path in broken:
        assert sum(f"{path} is broken, another image takes its place" in w for w in warnings) == 1


def test_a_folder_of_broken_images_alone_is_an_error(
    tmp_path, tiny_options, monkeypatch, capsys
) -> None:
    break_images(tmp_path / "images")
    options = ["--workdir", str(tmp_path / "run"), *tiny_options, *FOLDER.split()]
    command = [*options, f"folder:{tmp_path / 'images'}"]
    check_one_line(
        *call(train.main, command, monkeypatch, capsys),
        r"none of the 5 images in .* can be read; the first is bomb\.png: replace them",
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # compiles a run of its own
def test_pictures_are_drawn_by_the_devices_that_train(
    tmp_path, tiny_options, monkeypatch, capsys
) -> None:
    """Eight devices share the training batch, and cannot share ten pictures evenly."""
    more = "--train.steps 2 --train.sample-every-steps 2 --sample.batch-size 10".split()
    options = ["--workdir", str(tmp_path / "run"), *tiny_options, *more]
    code, stderr = call(train.main, options, monkeypatch, capsys)
    assert code == 0, stderr
    assert (tmp_path / "run" / "samples" / "step_00000002.png").exists()
