"""The bundled sets, and the table of all kinds."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from sklearn import datasets

from ddpm_jax.config import DataConfig
from ddpm_jax.data import Source, load_source, loading
from ddpm_jax.data.sources import ArrayRecords
from ddpm_jax.errors import UserError

DIGITS = DataConfig(name="digits", image_size=8, channels=1)


def test_digits_are_scikit_learns_in_eight_bits() -> None:
    source = load_source(DIGITS)
    digits = datasets.load_digits()
    assert len(source) == 1797
    assert source.num_classes == 10 and source.class_names == tuple("0123456789")
    assert source.broken == []
    for index in (0, 5, 1796):
        record = source.records[index]
        assert record["x"].shape == (8, 8, 1) and record["x"].dtype == np.uint8
        want = np.round(digits.images[index] * 255 / 16)
        np.testing.assert_array_equal(record["x"][..., 0], want)
        assert record["label"] == digits.target[index]


def test_s_curve_is_the_curve_from_the_side() -> None:
    source = load_source(DataConfig(name="s_curve"))
    points = np.stack([record["x"] for record in source.records])
    assert points.shape == (10_000, 2) and points.dtype == np.float32
    want, _ = datasets.make_s_curve(10_000, noise=0.1, random_state=0)
    np.testing.assert_allclose(points, want[:, [0, 2]] / 10, rtol=1e-6)
    assert source.num_classes == 0 and source.records[0]["label"] == -1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "digit"}, "did you mean digits?"),
        ({"name": "folders:/x"}, "did you mean folder:/x?"),
        ({"name": "tfd:cifar10"}, "did you mean tfds:cifar10?"),
        ({"name": "imagenet"}, "digits, s_curve, tfds:NAME or folder:PATH"),
        ({"name": "tfds:"}, "did you mean tfds:NAME?"),
        ({"name": "folder"}, "did you mean folder:PATH?"),
        ({"channels": 3}, "set --data.channels 1"),
        ({"channels": 2}, "1 (grey) or 3 (RGB)"),
        ({"image_size": 0}, "must be 1 or more"),
        ({"name": "s_curve", "flip": True}, "set data.flip to False"),
        ({"name": "s_curve", "random_crop": True}, "set data.random_crop to False"),
        ({"labels": "names"}, "only folder:PATH takes other ones: leave it at folders"),
        ({"name": "s_curve", "labels": "names"}, "s_curve has its own labels or none"),
        ({"name": "tfds:mnist", "labels": "l.csv"}, "data.labels is 'l.csv', but tfds:mnist has"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as error:
        load_source(dataclasses.replace(DIGITS, **settings))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_one_more_kind_takes_a_function_and_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_noise(data: DataConfig) -> Source:
        return Source(data.name, ArrayRecords(np.zeros((3, 8, 8, 1), np.uint8), np.zeros(3)))

    monkeypatch.setitem(loading.SOURCES, "noise", load_noise)
    assert len(load_source(dataclasses.replace(DIGITS, name="noise"))) == 3
    for name, words in [
        ("nois", r"tfds:NAME, folder:PATH or noise; did you mean noise\?"),
        ("noise:3", r"data\.name is 'noise:3'; .* did you mean noise\?"),
    ]:
        with pytest.raises(UserError, match=words):
            load_source(dataclasses.replace(DIGITS, name=name))


def test_importing_the_package_imports_no_heavy_library() -> None:
    heavy = ["grain", "tensorflow_datasets", "tensorflow", "sklearn"]
    code = f"import sys, ddpm_jax.data; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
