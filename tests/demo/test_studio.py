"""The studio without its page: requests become pictures while they run, and errors a sentence."""

import dataclasses
import re
import shutil
import socket
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qsl

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.commands import sample
from ddpm_jax.config import command_line
from ddpm_jax.demo import __main__ as command
from ddpm_jax.demo.narration import narrated, sentence
from ddpm_jax.demo.requests import Requests
from ddpm_jax.demo.settings import (
    DrawSettings,
    EditSettings,
    Limits,
    query_of,
    sample_command,
    settings_of,
)
from ddpm_jax.demo.studio import Frame, Studio, brushed, data_picture, draw, edit, read_picture
from ddpm_jax.demo.watching import Stopped, watched
from ddpm_jax.errors import UserError
from ddpm_jax.generation import GenerationOptions, load_run
from ddpm_jax.generation.chain import Moment
from ddpm_jax.runtime.script import run_script
from ddpm_jax.visualization.images import save_png
from tests.sampling.test_loop import compilations

MOMENT = Moment(np.arange(2), 7, np.zeros((2, 8, 8, 1), np.uint8), np.zeros((2, 8, 8, 1), np.uint8))
SETTINGS = DrawSettings(
    seed=3, sampler="ddim", steps=5, guidance="classifier-free", scales="0,1,4", num=5
)


@pytest.fixture(scope="module")
def studio(tiny_run: Path) -> Studio:
    """With a cheap network in place of the U-Net, which would take seconds to compile."""

    def cheap(params, x, t, labels):
        return jnp.sin(x + (labels + t / 1000)[:, None, None, None])

    run = load_run(tiny_run)
    run.network = run.network._replace(apply=cheap)
    return Studio(run, limits=Limits(num=20), batch_size=8)


def never() -> threading.Event:
    return threading.Event()


def test_the_command_asks_sample_py_for_the_same(studio):
    timed = dataclasses.replace(SETTINGS, labels="random", start=0.25, end=0.8)
    for settings in (DrawSettings(), SETTINGS, timed):
        options = studio.draw_options(settings)
        words = sample_command(options, {"workdir": studio.run.workdir, "ema": None}).split()
        assert words[:4] == ["python", "-m", "ddpm_jax", "sample"]
        args = command_line.parse(sample.Args, words[4:])
        asked = {field.name for field in dataclasses.fields(GenerationOptions)}
        got = GenerationOptions(**{name: getattr(args, name) for name in asked})
        want = dataclasses.replace(options, labels=options.labels or "")
        assert got == want and args.workdir == studio.run.workdir


def test_a_link_has_the_settings_and_may_have_more():
    timed = dataclasses.replace(SETTINGS, start=0.25)
    query = parse_qsl(query_of(timed))
    start = DrawSettings(sampler="heun", num=4)
    assert settings_of([*query, ("__theme", "dark")], start) == timed
    assert settings_of(parse_qsl(query_of(DrawSettings())), start) == DrawSettings()
    assert settings_of([("__theme", "dark")], start) == start
    with pytest.raises(UserError, match="num=many: the link must have a number"):
        settings_of([("num", "many")], DrawSettings())


def test_what_is_drawn_is_what_the_run_draws_and_is_shown_before(studio):
    *frames, batch = draw(studio, SETTINGS, never())
    assert len(frames) == 5 * 3  # batches: one of 5 unguided samples, two of 10 guided ones
    assert all(isinstance(frame, Frame) for frame in frames)
    assert frames[-1].done <= 1 and np.all(np.diff([frame.done for frame in frames]) > 0)
    assert (frames[0].x_t == 128).mean() > 0.3  # what has not begun is grey
    np.testing.assert_array_equal(
        batch.images, studio.run.plan(studio.draw_options(SETTINGS)).generate().images
    )


def test_another_class_seed_number_and_scale_compile_nothing(studio):
    first = dataclasses.replace(SETTINGS, scales="3")
    list(draw(studio, first, never()))
    other = dataclasses.replace(first, labels="7", seed=9, num=3, scales="2")
    with compilations() as later:
        list(draw(studio, other, never()))
    assert not later


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num": 21}, "num=21: must be 1 to 20"),
        ({"steps": 1001}, "steps=1001: must be 0 to 1000"),
        ({"scales": "1,2,3,4,5,6,7,8,9"}, "rows=9: must be 1 to 8"),
        ({"scales": "much"}, "cfg_scale=much: give a number"),
        ({"guidance": "classifier"}, "the studio was started without one"),
        ({"guidance": "hope"}, "guidance=hope: there are: none"),
        ({"sampler": "ddmi"}, "did you mean"),
        ({"labels": "12"}, "labels=12: 12 is not among"),
        ({"start": 0.9, "end": 0.8}, "guidance_interval=0.9,0.8: give two rising numbers"),
        ({"seed": -1}, "seed=-1: must be"),
        ({"seed": None}, "seed=: give a number"),
    ],
)
def test_a_request_that_asks_too_much_is_refused(studio, change, says):
    with pytest.raises(UserError, match=says):
        next(draw(studio, dataclasses.replace(SETTINGS, **change), never()))


def test_pictures_are_edited_while_one_looks(studio):
    picture, label = data_picture(3, studio)
    settings = EditSettings(steps=5, sampler="ddim", labels=label, num=2, strengths="0.4,0.8")
    *frames, varied = edit(studio, settings, [picture, None], None, never())
    assert len(frames) == 2 + 4 and varied.images.shape == (3, 2, 8, 8, 1)
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    filling = dataclasses.replace(settings, task="inpaint", resample=1)
    *_, filled = edit(studio, filling, [picture, None], mask, never())
    np.testing.assert_array_equal(filled.row("filled")[:, 4:], [picture[4:]] * 2)
    between = dataclasses.replace(settings, task="interpolate", method="noised", num=3)
    other = data_picture(5, studio)[0]
    *_, row = edit(studio, between, [picture, other], None, never())
    assert row.images.shape == (1, 3, 8, 8, 1)


@pytest.mark.parametrize(
    ("change", "given", "mask", "says"),
    [
        ({}, 0, None, "give a picture"),
        ({"task": "interpolate"}, 1, None, "give two pictures"),
        ({"task": "inpaint"}, 1, None, "brush over the part"),
        ({"task": "inpaint"}, 1, True, "leave some of the picture"),
        ({"task": "inpaint", "resample": 21}, 1, None, "resample=21: must be 1 to 20"),
        ({"task": "paint"}, 1, None, "task=paint: there are: vary"),
        ({"strengths": "weak"}, 1, None, "strengths=weak: must be as"),
        ({"strengths": "2"}, 1, None, "strength=2: must be above 0"),
        ({"method": "morph"}, 1, None, "method=morph: there are"),
    ],
)
def test_an_edit_that_lacks_something_is_refused(studio, change, given, mask, says):
    pictures = [np.zeros((8, 8, 1), np.uint8)] * given + [None] * (2 - given)
    region = None if mask is None else np.full((8, 8), mask)
    with pytest.raises(UserError, match=says):
        next(edit(studio, EditSettings(labels="3", **change), pictures, region, never()))


def test_an_upload_is_fitted_or_refused(studio, tmp_path):
    save_png(np.full((40, 60, 3), 200, np.uint8), tmp_path / "large.png")
    assert read_picture(tmp_path / "large.png", studio).shape == (8, 8, 1)
    small = dataclasses.replace(studio, limits=Limits(upload_side=50))
    with pytest.raises(UserError, match=r"large.png is 60 pixels long; at most 50"):
        read_picture(tmp_path / "large.png", small)
    small = dataclasses.replace(studio, limits=Limits(upload_bytes=10))
    with pytest.raises(UserError, match="upload_bytes="):
        read_picture(tmp_path / "large.png", small)
    (tmp_path / "broken.png").write_bytes((tmp_path / "large.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"the file broken\.png cannot be read"):
        read_picture(tmp_path / "broken.png", studio)


def test_a_pixel_is_brushed_if_half_of_it_is():
    alpha = np.zeros((80, 80), np.uint8)
    alpha[:6, :10] = 255  # more than half of the first pixel
    alpha[10:14, :10] = 255  # less than half of the one below
    mask = brushed(alpha, 8)
    assert mask[0, 0] and mask.sum() == 1


def test_work_is_watched_and_returns():
    def work(on_moment, on_progress):
        on_moment(MOMENT)
        on_progress(1)
        return "done"

    assert list(watched(work, never())) == [MOMENT, "done"]
    with pytest.raises(ZeroDivisionError):
        list(watched(lambda on_moment, on_progress: 1 / 0, never()))


def test_work_stops_when_it_is_told_and_when_nobody_looks():
    def work(on_moment, on_progress):
        while True:
            on_moment(MOMENT)

    for stops in (True, False):
        stop = never()
        moments = watched(work, stop)
        assert next(moments) is MOMENT
        if stops:
            stop.set()
            with pytest.raises(Stopped):
                list(moments)
        moments.close()
        assert stop.is_set() and "chain" not in {thread.name for thread in threading.enumerate()}
    stop = never()
    stop.set()
    with pytest.raises(Stopped):
        list(watched(lambda on_moment, on_progress: "done", stop))


def test_the_end_of_a_request_is_told_in_words():
    frame = Frame(7, 0.5, np.zeros((8, 8, 1), np.uint8), np.zeros((8, 8, 1), np.uint8))

    def ends_in(error):
        def frames():
            yield frame
            raise error

        return [html for html, _ in narrated(frames())][-1]

    assert "Stopped at t = 7" in ends_in(Stopped())
    refused = ends_in(UserError("cfg_scale=<b>: give a number"))
    assert "Cfg scale &lt;b&gt;: give a number." in refused and 'role="alert"' in refused
    assert "It failed: ZeroDivisionError." in ends_in(ZeroDivisionError())
    assert sentence(UserError("seed=-1: must be at least 0")) == "Seed -1: must be at least 0."


def test_a_request_may_be_stopped_before_its_turn_and_too_many_may_not_wait():
    requests = Requests(limit=2)
    requests.stop("a")
    requests.wait("a")
    requests.stop("a")
    assert requests.begin("a").is_set()
    requests.end("a")
    requests.wait("a")
    requests.wait("b")
    with pytest.raises(UserError, match="2 requests are waiting already"):
        requests.wait("c")
    first = requests.begin("a")  # and so makes room
    requests.wait("c")
    requests.end("a")  # its visitor left
    requests.end("b")
    assert not requests.begin("c").is_set()
    assert first.is_set() and requests.begin("b").is_set()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "nowhere is no run folder"),
        (["EMPTY"], "no checkpoint"),
        (["RUN", "--sampler", "dddim"], "--sampler dddim: .*did you mean ddim"),
        (["RUN", "--steps", "21"], "21"),
        (
            ["RUN", "--port", "TAKEN"],
            "--port .*: cannot listen there at 127.0.0.1: Address already",
        ),
        (["RUN", "--port", "0"], "--port 0: must be 1 to 65535"),
        (["RUN", "--host", "no.such.host.invalid"], "cannot listen there at no.such.host"),
        (["RUN", "--classifier", "RUN"], "--classifier .*knows no classes"),
        (["RUN", "--max-num", "0"], "--max-num"),
        (["RUN", "--pretrained", "imagenet64"], "give a run folder, as --workdir DIR, or"),
        (["--pretrained", "imagenet46"], "--pretrained imagenet46: .*did you mean imagenet64"),
    ],
)
def test_bad_input_is_one_line(words, says, tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "require_gradio", lambda: None)
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(tiny_run / "config.json", empty)
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("", 0)) as free:
        ports = {"TAKEN": str(taken.getsockname()[1])}
        port = free.getsockname()[1]
        free.close()
        places = ports | {"RUN": str(tiny_run), "EMPTY": str(empty)}
        given = [] if "--port" in words else ["--port", str(port)]
        argv = ["studio", *(places.get(word, word) for word in words), *given]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            run_script(command.main)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1
    assert re.search(says, error), error


def test_without_gradio_one_line_says_what_to_install(tiny_run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(sys, "argv", ["studio", str(tiny_run)])
    with pytest.raises(SystemExit) as ended:
        run_script(command.main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: the studio needs Gradio; run `pip install 'ddpm-jax[demo]'`, "
        "or in a checkout `pip install -e '.[demo]'`\n"
    )
