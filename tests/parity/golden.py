"""Numbers computed by the original code, and how near to them ours must be.

The folder is that of the environment variable DDPM_JAX_GOLDEN; its README states the tolerances.
"""

import json
import os
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np

FOLDER = Path(os.environ.get("DDPM_JAX_GOLDEN") or Path(__file__).parent.parent / "golden")
SPACE_TIMESTEPS = "space_timesteps.json"

# The names compared so far, by file.
compared: dict[str, set[str]] = defaultdict(set)


class GoldenFile:
    """One npz file: its `meta`, its arrays by key, and the comparison with its outputs."""

    def __init__(self, filename: str):
        self.filename = filename
        self._arrays = np.load(FOLDER / filename, allow_pickle=False)
        self.meta = json.loads(str(self._arrays["meta_json"]))
        self._tolerance = load_json("tolerance.json").get(filename.removesuffix(".npz"), {})

    def keys(self, prefix: str) -> list[str]:
        """Whole keys that start with `prefix`, in the file's order."""
        return [key for key in self._arrays.files if key.startswith(prefix)]

    def array(self, key: str) -> np.ndarray:
        """The array as stored; float16 weights become float32, which is exact."""
        array = self._arrays[key]
        return array.astype(np.float32) if array.dtype == np.float16 else array

    def check(
        self, key: str, got: np.ndarray, exact: bool = False, floor: np.ndarray | None = None
    ) -> None:
        """Asserts that `got` is the output `key`, as in "out/d1/q_mean", and counts it.

        Integers, and everything if `exact`, must be equal; what the original computes in float64
        agrees to 1e-12; what it computes in float32 to 20 times its own rounding floor: that of
        tolerance.json, relative to the largest value of a group, or `floor`, in absolute terms.
        """
        want, got = self._arrays[key], np.asarray(got)
        name = f"{self.filename}: {key}"
        assert got.shape == want.shape, f"{name}: shape {got.shape}, not {want.shape}"
        compared[self.filename].add(key)
        if exact or not np.issubdtype(want.dtype, np.floating):
            np.testing.assert_array_equal(got, want, err_msg=name)
        elif floor is not None:
            _assert_within(got, want, 20 * floor + 2e-6 * np.abs(want), 0, name)
        elif (entry := self._tolerance.get(key.removeprefix("out/"))) is not None:
            limit = max(20 * entry["group_rel"], 2e-6) * np.abs(want)
            _assert_within(got, want, limit, entry["group_axes"], name)
        else:
            assert want.dtype == np.float64, f"{name}: no entry in tolerance.json"
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=0, err_msg=name)


def _assert_within(
    got: np.ndarray, want: np.ndarray, limit: np.ndarray, group_axes: int, name: str
) -> None:
    """max|got - want| over each group, the last axes, is at most max(limit) over the same group."""
    finite = np.isfinite(want)
    np.testing.assert_array_equal(np.where(finite, 0, got), np.where(finite, 0, want), name)
    got, want, limit = (np.where(finite, x, 0).astype(np.float64) for x in (got, want, limit))
    axes = tuple(range(want.ndim - group_axes, want.ndim))
    error, limit = (x.max(axis=axes, initial=0) for x in (np.abs(got - want), limit))
    # Not `error > limit`, which a NaN of ours would pass.
    worst = np.argwhere(~(error <= limit))
    assert not len(worst), (
        f"{name}: {len(worst)} of {error.size} groups differ; at {worst[0]} by "
        f"{error[tuple(worst[0])]:.3g}, allowed {limit[tuple(worst[0])]:.3g}"
    )


@cache
def load(filename: str) -> GoldenFile:
    """The npz file of that name; read once."""
    return GoldenFile(filename)


@cache
def load_json(filename: str) -> dict | list:
    """The JSON file of that name; read once."""
    return json.loads((FOLDER / filename).read_text())


def groups(filename: str) -> list[str]:
    """First parts of the names of a file's outputs: "d1" of "out/d1/q_mean"."""
    return list(dict.fromkeys(key.split("/")[1] for key in load(filename).keys("out/")))


def totals() -> dict[str, int]:
    """How many outputs each file holds; the evaluator's belong to the metrics."""
    files = sorted(path.name for path in FOLDER.glob("*.npz") if path.name != "evaluator.npz")
    counts = {name: len(load(name).keys("out/")) for name in files}
    return {**counts, SPACE_TIMESTEPS: len(load_json(SPACE_TIMESTEPS))}


def to_nhwc(array: np.ndarray) -> np.ndarray:
    """[..., C, H, W] -> [..., H, W, C]."""
    return np.moveaxis(array, -3, -1)


def to_nchw(array: np.ndarray) -> np.ndarray:
    """[..., H, W, C] -> [..., C, H, W]."""
    return np.moveaxis(np.asarray(array), -1, -3)
