"""What people type: options, values in their usual spellings, help, and what is refused."""

import dataclasses
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from ddpm_jax.config import Config, SamplerName, command_line, primitives
from ddpm_jax.errors import UserError
from ddpm_jax.sampling.samplers import SAMPLERS


@dataclass(frozen=True)
class Args:
    workdir: Path  # the run folder
    num: int | None = None  # how many
    seed: int = 0  # of the noise
    eta: float | None = None  # of DDIM
    sampler: SamplerName | None = None  # None: the run's own
    metric: Literal["bpd", "fid", "inception_score"] = "bpd"
    out: Path | None = None  # where to


def train(command: str) -> Config:
    return command_line.parse_train(command.split())[0]


def parsed(command: str) -> Args:
    return command_line.parse(Args, command.split())


def answer(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The words of the box that refuses a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        parsed(f"run {command}")
    assert end.value.code == 2
    return " ".join(re.sub("[│─╭╮╰╯├┤]", " ", capsys.readouterr().err).split())


def test_help_lists_every_field_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command_line.parse_train(["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert end.value.code == 0
    assert re.search(r"--config PATH [^-]*\(default: digits\)", shown)
    for section, kind in typing.get_type_hints(Config).items():
        for field in dataclasses.fields(kind):
            assert f"--{section}.{field.name.replace('_', '-')} " in shown
    for meaning in (
        "examples a step, over all devices",
        "run folder, made or resumed",
        "the network sees t",
    ):
        assert meaning in shown


def test_options_override_single_fields() -> None:
    command = (
        "--train.batch-size 64 --model.channel-mult 1 2 --data.flip True --sample.steps ddim25 "
        "--model.attention-resolutions --diffusion.schedule linear --diffusion.beta-end 0.5 "
        "--workdir some/where"
    )
    ours, workdir, dry_run, *_ = command_line.parse_train(command.split())
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


def test_the_options_of_train_come_before_the_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        command_line.parse_train(["configs/s_curve.py", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 90  # of which the commands may be wider than the terminal
    shown = "\n".join(lines)
    order = ["--config", "--workdir", "--dry-run", "data options", "--data.name", "profile options"]
    places = [shown.index(f"{word} ", shown.index("-h, --help")) for word in order]
    assert places == sorted(places)
    assert "(default: s_curve)" in shown


@pytest.mark.parametrize(
    ("text", "value"), [("64", 64), ("1e5", 100_000), ("1_000", 1000), ("-1", -1), ("2.0", 2)]
)
def test_a_whole_number_may_be_written_as_it_is_usual(text: str, value: int) -> None:
    read = primitives.whole_number(text)
    assert read == value and type(read) is int


@pytest.mark.parametrize("text", ["1.5", "many", "", "inf", "nan", "1e400", "1,000"])
def test_what_is_no_whole_number_is_refused_with_one(text: str) -> None:
    with pytest.raises(ValueError, match="is no whole number; give one, as in 64 or 1e5"):
        primitives.whole_number(text)


def test_numbers_of_every_option_are_read_alike() -> None:
    assert train("--train.steps 1e5 --data.low-res-size 4e0").train.steps == 100_000
    args = parsed("--workdir run --num 1e3 --seed 3 --eta 0.5")
    assert (args.num, args.seed, args.eta) == (1000, 3, 0.5)
    assert parsed("--workdir run --num None").num is None


@pytest.mark.parametrize("written", ["1,2,3", "1 2 3", "1,2 3"])
def test_a_list_of_numbers_may_have_commas_or_spaces(written: str) -> None:
    config = train(
        f"--data.image-size 8 --model.channel-mult {written} --train.extra-ema-decays 0.9,0.99 "
        "--model.attention-resolutions 8,4 --diffusion.sigmoid-range -5,5"
    )
    assert config.model.channel_mult == (1.0, 2.0, 3.0)
    assert config.train.extra_ema_decays == (0.9, 0.99)
    assert config.model.attention_resolutions == (8, 4)
    assert all(type(side) is int for side in config.model.attention_resolutions)
    assert config.diffusion.sigmoid_range == (-5.0, 5.0)
    assert train("--diffusion.sigmoid-range -5 5").diffusion.sigmoid_range == (-5.0, 5.0)


@pytest.mark.parametrize(
    ("written", "value"),
    [("", True), ("True", True), ("true", True), ("False", False), ("false", False)],
)
def test_a_switch_without_a_value_is_true(written: str, value: bool) -> None:
    config = train(f"--data.flip {written} --train.seed 1")
    assert config.data.flip is value and config.train.seed == 1
    assert train(f"--data.flip={written or 'True'}").data.flip is value


def test_a_dry_run_needs_no_value() -> None:
    assert command_line.parse_train(["--dry-run", "--train.seed", "1"])[2] is True
    assert command_line.parse_train([])[2] is False


def test_a_choice_may_be_spelt_in_any_way_that_names_one_alone() -> None:
    for word in ("inception_score", "Inception-Score", "INCEPTIONSCORE"):
        assert parsed(f"run --metric {word}").metric == "inception_score"
    assert primitives.spelt("dpm", ("ddpm", "dpm++")) == "dpm++"
    with pytest.raises(ValueError, match="invalid choice 'dpm'"):
        primitives.spelt("dpm", ("dpm_", "dpm++"))
    assert primitives.spelt("dpm++", ("dpm_", "dpm++")) == "dpm++"


def test_a_sampler_is_known_by_all_the_names_of_its_table() -> None:
    for name, row in SAMPLERS.items():
        for word in (name, name.upper(), *row.other_names):
            assert train(f"--sample.sampler {word} --sample.eta 0").sample.sampler == name
            assert parsed(f"run --sampler {word}").sampler == name


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("--num many", "--num: 'many' is no whole number; give one, as in 64 or 1e5"),
        ("--num 1.5", "'1.5' is no whole number"),
        ("--eta some", "--eta: 'some' is no number; give one, as in 0.1 or 1e-4"),
        ("--metric fed", "invalid choice 'fed'; there are: 'bpd', 'fid', 'inception_score'; did"),
        ("--sampler ddimm", "unknown sampler: ddimm; there are: ddpm, ddim"),
        ("--nmu 3", "Unrecognized options: --nmu"),
        ("--workdri x", "--workdir PATH"),
    ],
)
def test_a_refused_value_is_answered_by_what_would_be_right(
    command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    box = answer(command, capsys)
    assert said in box and "None}" not in box and "'None'" not in box


def test_two_values_for_a_switch_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train("--data.flip True False")
    assert end.value.code == 2 and "invalid choice 'True False'" in capsys.readouterr().err


def test_a_first_word_is_the_run_folder_or_the_config(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert parsed("runs/digits --num 3") == parsed("--workdir runs/digits --num 3")
    file = str(command_line.DEFAULT_CONFIG.parent / "s_curve.py")
    config, workdir, *_ = command_line.parse_train([file, "--train.seed", "3"])
    assert (config.data.name, config.train.seed, workdir) == ("s_curve", 3, Path("runs/s_curve"))
    assert "Unrecognized options: run" in answer("--workdir other", capsys)


def test_a_config_is_known_by_its_name_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = command_line.load_config(command_line.CONFIGS / "s_curve.py")
    for written in ("s_curve", "--config s_curve", "s_curve.py", "configs/s_curve.py"):
        config, workdir, *_ = command_line.parse_train(written.split())
        assert (config, workdir) == (theirs, Path("runs/s_curve"))
    Path("s_curve.py").write_text(command_line.DEFAULT_CONFIG.read_text())
    assert train("s_curve.py").data.name == "digits"  # a file here comes first
    with pytest.raises(UserError, match=r"^--config digist: .*; did you mean digits\? there are: "):
        train("digist")
    with pytest.raises(UserError, match="did you mean digits"):
        train("elsewhere/digits.py")


def test_an_existing_folder_is_a_folder_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cats", "digits", "tfds:cats"):
        Path(name).mkdir()
    assert train("--data.name cats/").data.name == "folder:cats"
    assert train(f"--data.name {tmp_path}/cats").data.name == f"folder:{tmp_path}/cats"
    for name in ("digits", "tfds:cats", "folder:cats", "folder:nowhere", "nowhere"):
        assert train(f"--data.name {name}").data.name == name
    assert capsys.readouterr().out == ""
