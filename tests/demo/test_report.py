"""The report of a run: one file, with what the run folder holds and nothing from elsewhere."""

import base64
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ddpm_jax.demo import report
from ddpm_jax.runs.history import FILE, read_history
from ddpm_jax.runtime.script import run_script


class Links(HTMLParser):
    """Every address that a page would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]


@pytest.fixture(scope="module")
def runs(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs that differ in their learning rate, with pictures; the second skipped a step."""
    place = tmp_path_factory.mktemp("runs")
    first, second = (shutil.copytree(tiny_run, place / name) for name in ("first", "<second>"))
    picture = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    )
    (first / "samples").mkdir(exist_ok=True)
    for step in (2, 4, 6):
        (first / "samples" / f"step_{step:08d}.png").write_bytes(picture)
    config = second / "config.json"
    config.write_text(re.sub(r'"learning_rate": [^,]*', '"learning_rate": 0.5', config.read_text()))
    (second / FILE).unlink()  # as in the folder of an older run
    with (second / "metrics.jsonl").open("a") as log:
        log.write('{"event": "skipped", "step": 5, "count": 3}\n{"step": 6, "loss": null}\n{"torn')
    return first, second


def test_training_leaves_the_page_at_its_end(tiny_run):
    assert "6 of 6, finished" in (tiny_run / "report.html").read_text()


def page_of(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> tuple[str, list[dict]]:
    """The page that the command writes, and the data of its curves."""
    monkeypatch.setattr(sys, "argv", ["report", *map(str, words)])
    report.main()
    out = Path(words[-1]) if "--out" in words else Path(words[0]) / "report.html"
    page = out.read_text()
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return page, json.loads(data)


def test_a_page_has_the_curves_pictures_and_settings_of_its_run(runs, monkeypatch):
    page, (data,) = page_of(monkeypatch, runs[0])
    logged = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    losses = [[r["step"], r["loss"]] for r in logged if "loss" in r]
    assert data["curves"]["loss"] == losses and len(losses) == 3
    assert "compile_seconds" not in data["curves"] and 'data-curve="grad_norm"' in page
    assert "6 of 6, finished" in page and "2, 4, 6" in page
    assert "data-steps='[2, 4, 6]'" in page and page.count("data:image/png;base64,") == 4
    assert re.search(r'<tr class="changed"><td><code>model.channels</code></td><td>8</td>', page)
    assert f"python -m ddpm_jax sample --workdir {runs[0]}" in page
    assert "--config" in page and "--model.channels 8" in page
    (start,) = read_history(runs[0])
    starts = page.split("Starts and stops")[1]
    assert (start.first, start.last, start.end) == (0, 6, "finished")
    assert f"{start.began}</td>" in starts and start.versions["jax"] in starts
    assert "<td>2 x cpu</td><td>finished</td>" in starts
    assert "Skipped steps" not in page


def test_a_page_loads_nothing_from_elsewhere_and_is_small(runs, monkeypatch):
    page, _ = page_of(monkeypatch, runs[0])
    assert all(link.startswith("data:") for link in Links(page).found)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", page)
    assert len(page) < 200_000


def test_runs_are_compared_by_what_differs(runs, tmp_path, monkeypatch):
    page, data = page_of(monkeypatch, *runs, "--out", tmp_path / "two.html")
    assert [each["name"] for each in data] == ["first", "<second>"]
    assert "&lt;second&gt;" in page and "<th><second>" not in page
    rows = re.findall(
        r"<tr><td><code>([\w.]+)</code></td>(.*?)</tr>", page.split("All settings")[0]
    )
    assert [name for name, _ in rows] == ["train.learning_rate"]
    assert rows[0][1].endswith("<td>0.5</td>")
    assert page.count("<td>finished</td>") == 1  # nothing is known of the second's start
    skipped = page.split("Skipped steps")[1]
    assert re.search(r'&lt;second&gt;</td><td class="number">5</td><td class="number">3<', skipped)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "nowhere is no run folder"),
        (["RUN", "nowhere"], "nowhere is no run folder"),
        (["RUN", "--out", "RUN/config.json/page.html"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line(words, says, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [word.replace("RUN", str(runs[0])) for word in words]
    monkeypatch.setattr(sys, "argv", ["report", *words])
    with pytest.raises(SystemExit) as ended:
        run_script(report.main)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and says in error and error.count("\n") == 1
