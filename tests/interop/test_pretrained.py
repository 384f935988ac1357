"""Published models by name, from a real server on this machine into an empty cache."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_jax.commands import edit, evaluate, sample
from ddpm_jax.config import Config, command_line
from ddpm_jax.config.serialization import read_config
from ddpm_jax.errors import RunError, UserError
from ddpm_jax.interop import import_weights, pretrained, published
from ddpm_jax.interop.published import Published
from ddpm_jax.models import build_network, count_parameters
from ddpm_jax.runs.saved_steps import only_imported
from tests.interop.file_server import FileServer, serving
from tests.interop.small import TINY, command, config_of, export_run, same_bits, state_dict

ROOT = Path(__file__).resolve().parents[2]
CUT = 2**16  # between two pieces
ETAG = '"one version"'


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files as OpenAI publishes them: of the model "tiny", and of a wider one."""
    place = tmp_path_factory.mktemp("weights")
    wider = TINY.replace(" channels=32,", " channels=64,")
    found = {}
    for name, text in {"tiny.pt": TINY, "wider.pt": wider}.items():
        torch.save(state_dict(config_of(text)), place / name)
        found[name] = (place / name).read_bytes()
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, an empty cache below it, and a published model "tiny"."""
    (tmp_path / "tiny.py").write_text(TINY)
    row = Published(str(tmp_path / "tiny"), "tiny.pt", "for tests", 0)
    monkeypatch.setitem(published.MODELS, "tiny", row)
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server(
    place: Path, weights: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[FileServer]:
    with serving(weights["tiny.pt"]) as server:
        server.headers = {"ETag": ETAG}
        monkeypatch.setenv(published.MIRROR, f"{server.address}/diffusion")
        yield server


def left_in(cache: Path) -> set[str]:
    """The files of a cache folder but for the empty ones that are locks."""
    files = {path for path in cache.rglob("*") if path.is_file()}
    return {path.name for path in files if not path.name.endswith(".lock")}


def test_a_model_is_fetched_once_resumed_where_it_was_cut_and_drawn_from(
    place, server, weights, capsys
) -> None:
    server.cuts = [CUT]
    options = "--pretrained tiny --num 3 --labels 1,2".split()
    code, _, stderr = command(sample.main, options, capsys)
    assert code == 0, stderr
    assert server.ranges == [None, f"bytes={CUT}-"] and server.conditions == [None, ETAG]
    assert server.paths == ["/diffusion/jul-2021/tiny.pt"] * 2
    with np.load(place / "pretrained" / "tiny" / "drawn" / "samples.npz") as drawn:
        assert drawn["arr_0"].shape == (3, 8, 8, 1) and len(np.unique(drawn["arr_0"])) > 20
    run = place / "cache" / "models" / "tiny"
    assert read_config(run / "config.json") == config_of(TINY)
    assert not list(place.rglob("tiny.pt*")) and not list(run.parent.glob("*.tmp"))
    assert not (run / "drawn").exists()

    assert pretrained.run_folder("tiny") == run and len(server.paths) == 2
    export_run(run, place / "back.pt", capsys)
    (place / "tiny.pt").write_bytes(weights["tiny.pt"])
    assert same_bits(torch.load("tiny.pt"), torch.load("back.pt"))


class Payload:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


def with_code() -> bytes:
    torch.save({"more": Payload()}, "code.pt")
    return Path("code.pt").read_bytes()


@pytest.mark.parametrize(
    ("body", "pattern"),
    [
        (lambda weights: weights["wider.pt"], r"does not fit tiny: .* of another shape"),
        (lambda weights: weights["tiny.pt"][:-1000], "is damaged, or no file of PyTorch weights"),
        (lambda weights: b"<html>log in, please</html>", "is damaged, or no file of PyTorch"),
        (lambda weights: with_code(), "could run code: not loaded"),
    ],
    ids=["of another network", "truncated", "a page", "with code"],
)
def test_a_wrong_file_is_refused_and_nothing_of_it_is_left(
    body, pattern, place, server, weights, in_process, capsys
) -> None:
    server.body = body(weights)
    code, _, stderr = command(sample.main, ["--pretrained", "tiny"], capsys)
    assert code == 2
    line = stderr.splitlines()[-1]
    assert re.search(rf"^error: http.*/tiny.pt sent another file .* removed: .*{pattern}", line)
    assert left_in(place / "cache") == set() and not Path("executed").exists()
    assert not Path("pretrained").exists()

    if pattern.startswith("could run code"):  # and then the right one is taken
        server.body = weights["tiny.pt"]
        assert (pretrained.run_folder("tiny") / "config.json").is_file()


def test_a_file_of_another_digest_than_the_pinned_one_is_refused(
    place, server, monkeypatch
) -> None:
    row = published.MODELS["tiny"]._replace(sha256="0" * 64)
    monkeypatch.setitem(published.MODELS, "tiny", row)
    with pytest.raises(UserError, match=r"its sha256 is .*, expected 00000"):
        pretrained.run_folder("tiny")
    assert left_in(place / "cache") == set()


def test_what_the_user_put_there_is_taken_without_the_net_and_stays(
    place, server, weights, in_process
) -> None:
    file = place / "cache" / "models" / "tiny.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(weights["wider.pt"])
    with pytest.raises(UserError, match=r"tiny.pt is not what http.* holds: does not fit tiny"):
        pretrained.run_folder("tiny")
    assert file.read_bytes() == weights["wider.pt"]
    file.write_bytes(weights["tiny.pt"])
    assert (pretrained.run_folder("tiny") / "config.json").is_file()
    assert file.exists() and server.paths == []


def test_of_two_at_once_one_fetches_and_what_a_killed_one_left_goes(
    place, server, in_process
) -> None:
    left = place / "cache" / "models" / ".tiny.4711.tmp"
    (left / "checkpoints").mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool:
        runs = set(pool.map(pretrained.run_folder, ["tiny", "tiny"]))
    assert runs == {place / "cache" / "models" / "tiny"} and len(server.paths) == 1
    assert not left.exists()


def test_no_connection_and_404_are_told_with_the_address_and_where_to_put_the_file(
    place, server, capsys
) -> None:
    server.body = None
    code, _, stderr = command(sample.main, ["--pretrained", "tiny"], capsys)
    url, file = f"{server.address}/diffusion/jul-2021/tiny.pt", place / "cache/models/tiny.pt"
    assert code == 2 and stderr.splitlines() == [
        f"error: {url} cannot be fetched: the server answers 404 Not Found; try again, or fetch it "
        f"by other means and put it at {file}"
    ]
    server.shutdown()
    server.server_close()
    code, _, stderr = command(sample.main, ["--pretrained", "tiny"], capsys)
    assert code == 2 and stderr.splitlines() == [
        f"error: {url} cannot be fetched: there is no connection; try again, or fetch it by other "
        f"means and put it at {file}"
    ]


def test_a_full_disk_loses_nothing(place, server, weights, monkeypatch, in_process, capsys) -> None:
    part = place / "cache" / "models" / "tiny.pt.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    Path(f"{part}.etag").write_text("so that the part is not made anew")
    code, _, stderr = command(sample.main, ["--pretrained", "tiny"], capsys)
    assert code == 1
    assert re.search(
        r"^stopped: .*/models cannot be written: No space left", stderr.splitlines()[-1]
    )
    part.unlink()

    def full(directory: Path, *_: object) -> None:  # what the checkpoint's writer makes of it
        directory.mkdir(parents=True)
        (directory / "half").touch()
        raise RunError(f"cannot write the weights to {directory}: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(import_weights.checkpoints, "save_imported", full)
        code, _, stderr = command(sample.main, ["--pretrained", "tiny"], capsys)
    assert code == 1 and "No space left on device; nothing is lost" in stderr.splitlines()[-1]
    assert left_in(place / "cache") == {"tiny.pt"}  # fetched, and not to be fetched again
    assert len(server.paths) == 2
    assert (pretrained.run_folder("tiny") / "config.json").is_file() and len(server.paths) == 2
    assert not list(place.rglob("tiny.pt"))


CHOICE = "give a run folder, as --workdir DIR, or a published model, as --pretrained NAME"
BAD = [
    (
        sample.main,
        "--pretrained imagnet64",
        r"--pretrained imagnet64: unknown; did you mean imagen",
    ),
    (sample.main, "--pretrained zzz", r"zzz: unknown; there are: imagenet64, .*; or OWNER/NAME"),
    (sample.main, "--pretrained=", "--pretrained : unknown; there are"),
    (sample.main, "--pretrained tiny --workdir runs/x", CHOICE),
    (sample.main, "", CHOICE),
    (edit.main, "vary --images data", CHOICE),
    (edit.main, "vary --images data --pretrained tiny --workdir x", CHOICE),
    (sample.main, "--pretrained folder", "that is a folder; if it is a run, give --workdir folder"),
    (evaluate.main, "--pretrained tiny --workdir x", "and only one of them"),
    (evaluate.main, "--pretrained imagnet64 --metrics fid", "unknown; did you mean imagenet64?"),
    (evaluate.main, "--published imagnet64", "--published imagnet64: unknown; did you mean imagen"),
    (evaluate.main, "--published lsun_bedroom_iddpm", "no row of it is known to us; did you mean"),
    (
        evaluate.main,
        "--published imagenet64 --steps 9",
        r"--steps 9: the protocol of --published im",
    ),
    (evaluate.main, "--published imagenet64 --metrics is", "--metrics is: the protocol of"),
    (evaluate.main, "--published imagenet64 --workdir a,b", "--workdir a,b: the row of"),
]


@pytest.mark.parametrize(("main", "options", "pattern"), BAD)
def test_wrong_commands_are_refused_in_one_line(main, options, pattern, place, capsys) -> None:
    (place / "folder").mkdir()
    before = sorted(place.rglob("*"))
    code, _, stderr = command(main, options.split(), capsys)
    (line,) = stderr.splitlines()
    assert code == 2 and re.search(pattern, line), line
    assert sorted(place.rglob("*")) == before


def test_a_classifier_or_an_upsampler_is_named_by_its_model(place, monkeypatch) -> None:
    monkeypatch.setattr(pretrained, "run_folder", lambda name: Path("cache") / name)
    assert pretrained.companion("classifier", "imagenet64") == Path("cache/imagenet64_classifier")
    assert (
        pretrained.companion("classifier", Path("imagenet512_classifier")).name[:11]
        == "imagenet512"
    )
    assert pretrained.companion("upsampler", "64_256") == Path("cache/upsampler_64_256")
    assert pretrained.companion("upsampler", "runs/nowhere") == Path("runs/nowhere")
    (place / "imagenet64").mkdir()  # a folder comes first
    assert pretrained.companion("classifier", "imagenet64") == Path("imagenet64")
    with pytest.raises(UserError, match=r"classifier=imagenet46: no such folder.*mean imagenet64"):
        pretrained.companion("classifier", "imagenet46")


def test_training_starts_from_a_copy_and_goes_on_in_it(place, server, in_process, capsys) -> None:
    words = "--pretrained tiny --train.seed 3"
    chosen = command_line.parse_train(words.split(), pretrained.config_of)
    assert chosen.workdir == Path("runs/tiny") and chosen.pretrained == "tiny"
    assert chosen.config.train.seed == 3 and chosen.config.model == config_of(TINY).model
    other = command_line.parse_train(
        "--pretrained tiny --model.channels 64".split(), lambda _: TINY_
    )
    with pytest.raises(
        UserError, match=r"--pretrained tiny: its weights do not fit model\.channels 32"
    ):
        pretrained.start_training("tiny", chosen.workdir, other.config)
    assert not Path("runs").exists()
    pretrained.start_training("tiny", chosen.workdir, chosen.config)
    assert only_imported(chosen.workdir / "checkpoints")
    kept = Path("runs/tiny/config.json").stat()
    pretrained.start_training("tiny", chosen.workdir, chosen.config)  # as on resuming
    assert Path("runs/tiny/config.json").stat() == kept
    with pytest.raises(UserError, match="runs/tiny holds a run that did not start from imagenet64"):
        pretrained.start_training("imagenet64", chosen.workdir, chosen.config)
    with pytest.raises(UserError, match="--config: --pretrained tiny brings its own"):
        command_line.parse_train("--pretrained tiny --config digits".split(), pretrained.config_of)
    Path("full").mkdir()
    Path("full/notes.txt").touch()
    with pytest.raises(UserError, match="--workdir full cannot be made: Directory not empty"):
        pretrained.start_training("tiny", Path("full"), chosen.config)
    assert [path.name for path in place.glob(".*.tmp")] == []


TINY_: Config = config_of(TINY)


def official() -> list[dict]:
    return [
        json.loads(path.read_text()) for path in (ROOT / "tests/golden/official").glob("*.json")
    ]


IDDPM = {
    "iddpm_cifar10_uncond": "cifar10_iddpm",
    "iddpm_imagenet64_uncond": "imagenet64_iddpm",
    "iddpm_lsun_uncond": "lsun_bedroom_iddpm",
}


@pytest.mark.parametrize("facts", official(), ids=lambda facts: facts["name"])
def test_the_table_has_the_published_number_of_parameters(facts) -> None:
    name = IDDPM.get(facts["name"]) or published.model_of(Path(f"{facts['name']}.pt"))
    shapes = facts["state_dict"].values()
    numbers = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes)
    assert published.MODELS[name].parameters == numbers == facts["param_count"]


@pytest.mark.parametrize("name", published.MODELS)
def test_a_config_says_the_parameters_of_the_table(name) -> None:
    first_line, _, _ = published.config_path(name).read_text().partition("\n")
    assert f": {published.MODELS[name].parameters:,} parameters" in first_line


@pytest.mark.slow
@pytest.mark.parametrize("name", published.MODELS)
def test_a_network_has_the_parameters_of_the_table(name) -> None:
    config = published.load_config(name)
    assert count_parameters(build_network(config).abstract) == published.MODELS[name].parameters


def test_the_list_names_every_model_and_its_commands_are_options(capsys) -> None:
    code, stdout, _ = command(sample.main, ["--list-pretrained"], capsys)
    assert code == 0
    for name, model in published.MODELS.items():
        assert re.search(rf"^{name} .* {model.parameters:,} ", stdout, re.MULTILINE)
    commands = re.findall(r"python sample.py (.*)$", stdout, re.MULTILINE)
    assert len(commands) > len(published.MODELS)
    for words in commands:
        args = command_line.parse(sample.Args, words.split())
        assert args.pretrained in published.MODELS or args.pretrained == "google/ddpm-cifar10-32"
    assert "imagenet256_guided            4.59" in stdout


def start(*words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """A script as a user runs it, in the working directory."""
    script, *options = map(str, words)
    command = [sys.executable, str(ROOT / script), *options]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environ)


@pytest.mark.slow
def test_a_full_size_model_is_fetched_and_drawn_from(tmp_path, monkeypatch) -> None:
    """The names and shapes of Improved DDPM on CIFAR-10, 210 MB; the weights are random."""
    (facts,) = (each for each in official() if each["name"] == "iddpm_cifar10_uncond")
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: 0.02 * torch.randn(shape, generator=generator)
        for name, shape in facts["state_dict"].items()
    }
    monkeypatch.chdir(tmp_path)
    torch.save(weights, "weights.pt")
    body = Path("weights.pt").read_bytes()
    environ = {"DDPM_JAX_CACHE": str(tmp_path / "cache"), "NO_PROXY": "*"}
    with serving(body) as server:
        server.headers, server.cuts = {"ETag": ETAG}, [len(body) // 2 // CUT * CUT]
        environ |= {published.MIRROR: server.address}
        done = start(
            "sample.py", *"--pretrained cifar10_iddpm --num 2 --steps 2".split(), **environ
        )
        assert done.returncode == 0, done.stderr
        assert server.ranges == [None, f"bytes={len(body) // 2 // CUT * CUT}-"]
        assert server.paths == ["/march-2021/cifar10_uncond_50M_500K.pt"] * 2
    with np.load("pretrained/cifar10_iddpm/drawn/samples.npz") as drawn:
        assert drawn["arr_0"].shape == (2, 32, 32, 3)


@pytest.mark.slow
def test_a_published_model_is_edited_and_guided_by_a_published_classifier(
    place, server, in_process, monkeypatch, capsys
) -> None:
    text = TINY.replace('variance="learned_range"', "").replace(
        "ModelConfig(\n", 'ModelConfig(\n            kind="classifier",\n'
    )
    (place / "guide.py").write_text(text)
    torch.save(state_dict(config_of(text)), "guide.pt")
    server.bodies["guide.pt"] = Path("guide.pt").read_bytes()
    row = Published(str(place / "guide"), "guide.pt", "for tests", 0)
    monkeypatch.setitem(published.MODELS, "tiny_classifier", row)
    words = "--pretrained tiny --classifier tiny --guidance-scale 0,9 --num 4"
    code, _, stderr = command(sample.main, words.split(), capsys)
    assert code == 0, stderr
    with np.load("pretrained/tiny/drawn/samples.npz") as drawn:
        assert not np.array_equal(*np.split(drawn["arr_0"], 2))
    words = "vary --pretrained tiny --images data --num 2 --strength 0.5"
    code, stdout, stderr = command(edit.main, words.split(), capsys)
    assert code == 0 and stdout.splitlines()[-1] == "pretrained/tiny/vary/grid.png", stderr


@pytest.mark.slow
def test_fine_tuning_by_name_trains_and_resumes(place, server, in_process, monkeypatch) -> None:
    """In processes of their own, whose table has no "tiny": they find it as a model of the hub."""
    models = place / "cache" / "models"
    pretrained.run_folder("tiny").rename(models / "owner--tiny")
    (models / "owner--tiny" / pretrained.ORIGIN).write_text('{"name": "owner/tiny"}')
    options = "--train.batch-size 4 --train.checkpoint-every-steps 1 --train.sample-every-steps 0"
    words = ["train.py", "--pretrained", "owner/tiny", *options.split()]
    done = start(*words, "--train.steps", "2")
    assert done.returncode == 0 and "finished after step 2" in done.stdout, done.stderr
    assert "resumed" not in done.stdout and Path("runs/owner--tiny/checkpoints/2").is_dir()
    done = start(*words, "--train.steps", "3")
    assert "resumed after step 2" in done.stdout, done.stderr
