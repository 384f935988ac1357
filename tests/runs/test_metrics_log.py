"""The log of a run survives kills, holds valid JSON, and reads back from TensorBoard's files."""

import io
import json
import os
import struct

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from ddpm_jax.runs.metrics_log import MetricsLog, read_records


def read_events(workdir):
    """Every event of every TensorBoard file, each record's two checksums verified."""
    events = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            header_crc, body, body_crc = data[8:12], data[12 : 12 + length], data[12 + length :][:4]
            assert struct.unpack("<I", header_crc)[0] == masked_crc32c(data[:8])
            assert struct.unpack("<I", body_crc)[0] == masked_crc32c(body)
            events.append(Event.FromString(body))
            data = data[16 + length :]
    return events


def strict_lines(workdir):
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def test_scalars_and_events_read_back(tmp_path):
    with MetricsLog(tmp_path / "new" / "run", 0) as log:
        log.scalars(10, {"loss": 0.5, "skipped": 2})
        log.event("finished", step=10, params_sha256="ab")
    assert strict_lines(tmp_path / "new" / "run") == [
        {"step": 10, "loss": 0.5, "skipped": 2},
        {"event": "finished", "step": 10, "params_sha256": "ab"},
    ]


def test_a_line_is_on_disk_as_soon_as_it_is_logged(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        log.scalars(1, {"loss": 0.5})
        assert strict_lines(tmp_path) == [{"step": 1, "loss": 0.5}]
        assert read_events(tmp_path)[-1].summary.value[0].simple_value == 0.5


def test_array_scalars_are_numbers(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        log.scalars(np.int64(1), {"loss": np.float32(0.25), "n": np.int32(3), "z": np.array(2.0)})
    assert strict_lines(tmp_path) == [{"step": 1, "loss": 0.25, "n": 3, "z": 2.0}]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32(np.nan)])
def test_what_is_not_finite_is_null(tmp_path, value):
    with MetricsLog(tmp_path, 0) as log:
        log.scalars(1, {"loss": value})
        log.event("skipped", step=1, losses=[1.0, value], by_name={"a": value})
    first, second = strict_lines(tmp_path)
    assert first == {"step": 1, "loss": None}
    assert second == {"event": "skipped", "step": 1, "losses": [1.0, None], "by_name": {"a": None}}


def test_resume_has_each_step_once(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        log.event("start", devices=1)
        for step in (10, 20, 30, 40):
            log.scalars(step, {"loss": 1 / step})
        log.event("finished", step=20)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, "lo')  # killed while writing
    with MetricsLog(tmp_path, 20) as log:
        log.scalars(30, {"loss": 3.0})
    lines = strict_lines(tmp_path)
    assert lines[0] == {"event": "start", "devices": 1}
    assert [line["step"] for line in lines[1:]] == [10, 20, 30]
    assert lines[3]["loss"] == 3.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_resume_leaves_an_untorn_log_as_it_is(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        log.scalars(10, {"loss": 0.1 + 0.2, "tiny": 1e-30})
        log.event("note", text="é")
    before = (tmp_path / "metrics.jsonl").read_bytes()
    MetricsLog(tmp_path, 10).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_failed_rewind_keeps_the_log(tmp_path, monkeypatch):
    with MetricsLog(tmp_path, 0) as log:
        log.scalars(10, {"loss": 1.0})
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        MetricsLog(tmp_path, 5)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_tensorboard_has_the_same_numbers_and_purges_from_the_next_step(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    with MetricsLog(tmp_path, 0) as log:
        log.scalars(10, {"loss": 0.5, "grad_norm": float("nan")})
        log.image(10, "samples", image)
        log.image(10, "grey", image[..., :1])
        log.image(10, "figure", np.zeros((4, 5, 4), np.uint8))
    with MetricsLog(tmp_path, 10) as log:
        log.scalars(20, {"loss": 0.25})
    events = read_events(tmp_path)
    starts = [e.step for e in events if e.session_log.status == SessionLog.START]
    assert starts == [1, 11], "the step resumed from is kept"
    values = {(e.step, v.tag): v for e in events for v in e.summary.value}
    assert values[10, "loss"].simple_value == 0.5
    assert np.isnan(values[10, "grad_norm"].simple_value)
    assert values[20, "loss"].simple_value == 0.25
    png = io.BytesIO(values[10, "samples"].image.encoded_image_string)
    np.testing.assert_array_equal(np.asarray(Image.open(png)), image)
    assert values[10, "grey"].image.height == 4


def test_records_skip_what_is_not_an_object(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n[2]\n3\n\n\xff\xfe\n{"step": 4}\n{"step": ')
    assert read_records(path) == [{"step": 1}, {"step": 4}]
