"""The studio in a real browser: what it draws is what sample.py draws, and it calls nobody.

pip install -e '.[test,demo-test]' && apt-get install chromium && pytest -m slow tests/demo
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LONGEST_MS = 120_000  # of a first chain, compilation included

# Every picture that the stage shows, in order, and the words below it.
RECORD = """(id) => {
  const stage = document.getElementById(id), seen = [];
  const look = () => {
    const sources = [...stage.querySelectorAll(".pair img")].map((image) => image.src).join("|");
    if (sources && seen.at(-1) !== sources) seen.push(sources);
  };
  new MutationObserver(look).observe(stage, { childList: true, subtree: true, attributes: true });
  window[id] = seen;
}"""


class Visit(NamedTuple):
    """A page, and what its browser asked for and complained of."""

    page: Any
    address: str
    hosts: set[str]
    errors: list[str]


@pytest.fixture(scope="module")
def long_run(tiny_options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `tiny_run`, but with a chain of 1000 steps, which takes long enough to be stopped."""
    workdir = tmp_path_factory.mktemp("runs") / "long"
    options = [*tiny_options]
    options[options.index("--diffusion.timesteps") + 1] = "1000"
    command = [sys.executable, str(ROOT / "train.py"), "--workdir", str(workdir), *options]
    subprocess.run(command, check=True, env=environment(), capture_output=True)
    return workdir


@pytest.fixture(scope="module")
def address(long_run: Path) -> Iterator[str]:
    """Of a studio of `long_run`."""
    pytest.importorskip("gradio", reason="needs pip install -e '.[demo-test]'")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ddpm_jax.demo", "--workdir", str(long_run)]
    studio = subprocess.Popen(
        [*command, "--port", str(port), "--max-waiting", "1"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert studio.stdout is not None
        line = studio.stdout.readline()
        assert f"http://127.0.0.1:{port}/" in line
        yield f"http://127.0.0.1:{port}/"
    finally:
        studio.send_signal(signal.SIGINT)
        _, error = studio.communicate(timeout=30)
    assert studio.returncode == 0 and "Traceback" not in error, error


@pytest.fixture
def visit(address: str) -> Iterator[Visit]:
    """A fresh browser at the page; at its end no other host was asked, and nothing failed."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs pip install -e '.[demo-test]'"
    )
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.set_default_timeout(LONGEST_MS)
        hosts, errors = set[str](), list[str]()
        context.on("request", lambda request: hosts.add(urlsplit(request.url).hostname or ""))
        context.on("weberror", lambda error: errors.append(str(error.error)))
        context.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page = context.new_page()
        page.on("websocket", lambda socket: hosts.add(urlsplit(socket.url).hostname or ""))
        page.goto(address)
        page.wait_for_selector("#draw-go")
        yield Visit(page, address, hosts, errors)
        browser.close()
    assert hosts <= {"127.0.0.1", ""}, hosts  # "": data: and blob:
    assert not errors


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "2"}


def number(page: Any, name: str, value: float) -> None:
    """Sets a slider by the field beside it."""
    field = page.locator(f"#{name} input[type=number]")
    field.fill(str(value))
    field.press("Tab")


def choose(page: Any, name: str, text: str) -> None:
    page.locator(f"#{name} input").click()
    page.get_by_role("option", name=text, exact=True).click()


def download(page: Any, name: str, folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.locator(f"#{name}").click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def take(page: Any, index: int) -> None:
    """Takes a picture of the data for editing."""
    sources = "[...document.querySelectorAll('#edit-pictures img')].map((i) => i.src).join()"
    before = page.evaluate(sources)
    page.get_by_role("tab", name="From the data").click()
    number(page, "edit-index", index)
    page.locator("#edit-use-data").click()
    page.wait_for_function(f"(old) => {sources} !== old", arg=before)


def finish(page: Any, tab: str) -> None:
    """Starts the request of the tab and waits for its result."""
    page.locator(f"#{tab}-go").click()
    page.wait_for_selector(f"#{tab}-stage .result")
    page.wait_for_selector(f"#{tab}-go:not([disabled])")


def test_a_class_is_drawn_while_one_looks_and_sample_py_draws_the_same_bytes(
    visit, long_run, tmp_path
):
    page = visit.page
    choose(page, "draw-class", "3")
    number(page, "draw-num", 5)
    page.locator("#draw-seed input").fill("7")
    number(page, "draw-steps", 50)
    page.evaluate(RECORD, "draw-stage")
    finish(page, "draw")
    seen = page.evaluate("window['draw-stage']")
    assert len(set(seen)) >= 3  # pictures of x_t and the predicted x_0 before the last one
    assert len(set(seen[0].split("|"))) == 2

    files = [download(page, name, tmp_path) for name in ("draw-samples", "draw-grid")]
    words = page.locator("#draw-command textarea").input_value().split()
    assert {"--labels", "3", "--seed", "7", "--num", "5"} <= set(words)
    command = [sys.executable, *words[1:], "--out", str(tmp_path / "out")]
    subprocess.run(command, check=True, env=environment(), capture_output=True)
    for file in files:
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes()

    # The link has the same settings.
    page.goto(page.locator("#draw-link input, #draw-link textarea").first.input_value())
    page.wait_for_function("document.querySelector('#draw-seed input')?.value === '7'")
    finish(page, "draw")
    again = download(page, "draw-samples", tmp_path / "again")
    assert again.read_bytes() == files[0].read_bytes()


def test_scales_stand_side_by_side(visit, tmp_path):
    page = visit.page
    number(page, "draw-num", 3)
    page.get_by_label("classifier-free").first.click()
    page.locator("#draw-scales input, #draw-scales textarea").fill("0,1,4")
    finish(page, "draw")
    assert "3 samples at each of 3 scales" in page.locator("#draw-stage").inner_text()
    with np.load(download(page, "draw-samples", tmp_path)) as archive:
        assert archive["cfg_scale"].tolist() == [0] * 3 + [1] * 3 + [4] * 3


def test_a_chain_is_stopped(visit):
    page = visit.page
    choose(page, "draw-sampler", "ddpm")
    number(page, "draw-steps", 1000)
    page.locator("#draw-go").click()
    page.wait_for_selector("#draw-stage .pair")
    page.locator("#draw-stop").click()
    page.wait_for_selector("#draw-go:not([disabled])")
    text = page.locator("#draw-stage [role=status]").inner_text()
    assert text.startswith("Stopped at t = ") and int(text.split()[-1]) > 0
    number(page, "draw-steps", 5)  # and it draws on
    finish(page, "draw")


def test_requests_wait_their_turn_and_too_many_are_refused(visit):
    first, second, third = visit.page, *(visit.page.context.new_page() for _ in range(2))
    for page in (second, third):
        page.goto(visit.address)
    for page in (first, second, third):
        choose(page, "draw-sampler", "ddpm")
        number(page, "draw-steps", 1000)
    number(first, "draw-num", 64)  # 32 batches with these scales, which nobody waits for
    first.get_by_label("classifier-free").first.click()
    first.locator("#draw-scales input, #draw-scales textarea").fill("0,2,3,4,5,6,7,8")
    first.locator("#draw-go").click()
    first.wait_for_selector("#draw-stage .pair")
    second.locator("#draw-go").click()
    second.get_by_text("Waiting for its turn.").wait_for()
    third.locator("#draw-go").click()
    third.get_by_text("1 requests are waiting already: try again in a while").wait_for()
    assert third.locator("#draw-go").is_enabled()
    assert second.locator("#draw-stage .pair").count() == 0
    first.close()  # which stops its chain
    second.wait_for_selector("#draw-stage .pair")
    second.locator("#draw-stop").click()
    second.get_by_text("Stopped at t = ").wait_for()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("broken.png", b"\x89PNG\r\n\x1a\nnothing that follows", "cannot be read"),
        ("words.png", b"no picture at all", "cannot be read"),
    ],
)
def test_a_broken_upload_is_a_sentence(visit, name, content, says, tmp_path):
    page = visit.page
    page.get_by_role("tab", name="Edit").click()
    (tmp_path / name).write_bytes(content)
    page.locator("#edit-upload input[type=file], input[type=file]").first.set_input_files(
        tmp_path / name
    )
    alert = page.locator("#edit-stage [role=alert]")
    alert.wait_for()
    assert name in alert.inner_text() and says in alert.inner_text()


def test_what_a_brush_covers_is_filled_and_the_rest_stays(visit, tmp_path):
    page = visit.page
    page.get_by_role("tab", name="Edit").click()
    take(page, 3)
    page.get_by_label("inpaint").click()
    canvas = page.locator("#edit-mask canvas").first
    canvas.wait_for()
    time.sleep(2)  # until its picture is there
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    # The picture lies in the middle of the canvas; the stroke goes along its third row of eight.
    side = min(box["width"], box["height"])
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 - 1.5 / 8 * side
    page.mouse.move(x - side / 4, y)
    page.mouse.down()
    for step in range(11):
        page.mouse.move(x - side / 4 + step * side / 20, y)
    page.mouse.up()
    number(page, "edit-num", 4)
    number(page, "edit-steps", 50)
    number(page, "edit-resample", 2)
    page.evaluate(RECORD, "edit-stage")
    finish(page, "edit")
    assert len(set(page.evaluate("window['edit-stage']"))) >= 3
    with np.load(download(page, "edit-edited", tmp_path)) as archive:
        original, known, filled = (archive[key] for key in ("original", "known", "filled"))
    brushed = (known != original).any(axis=0)[..., 0]
    assert brushed[2].sum() >= 2 and not brushed[[0, 5, 6, 7]].any()
    stays = known != 128  # what is filled is shown as grey
    stays[:, [0, 5, 6, 7]] = True
    np.testing.assert_array_equal(filled[stays], original[stays])
    assert np.abs(filled.astype(int) - original)[:, brushed].max() > 10
    assert len(np.unique(filled, axis=0)) == 4


def test_two_pictures_are_joined_by_a_row(visit, tmp_path):
    page = visit.page
    page.get_by_role("tab", name="Edit").click()
    page.get_by_label("interpolate").click()
    second = page.get_by_label("second", exact=True)
    second.wait_for()
    take(page, 0)
    second.check()
    take(page, 1)
    assert page.locator("#edit-pictures img").count() == 2
    number(page, "edit-num", 5)
    number(page, "edit-steps", 20)
    finish(page, "edit")
    with np.load(download(page, "edit-edited", tmp_path)) as archive:
        (row,) = archive.values()
    assert row.shape == (5, 8, 8, 1) and len(np.unique(row, axis=0)) == 5


def test_the_log_is_looked_at(visit):
    page = visit.page
    page.get_by_role("tab", name="Look").click()
    report = page.frame_locator("iframe.report")
    report.locator("svg[data-curve=loss] polyline").wait_for()
    assert "6 of 6, finished" in report.locator("body").inner_text()
