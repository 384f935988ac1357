"""Numbers computed by the original code, and how near to them ours must be.

The folder is that of the environment variable DDPM_JAX_GOLDEN; its README states the tolerances.
A file remembers which of its settings and arrays the tests have read: `unread`.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(os.environ.get("DDPM_JAX_GOLDEN") or Path(__file__).parent.parent / "golden")
SPACE_TIMESTEPS = "space_timesteps.json"

# The names compared so far, by file.
compared: dict[str, set[str]] = defaultdict(set)

# Settings that no test needs to read: prose, and messages of the original, where ours say more.
DOCUMENTATION = re.compile(
    r"([\w.]*_)?doc|notes?|axes(\..*)?|layout|weights(\.formula)?|pillow|checkpoint_files|values|f64"
    r"|sensitivity\..*|unknown|raises\..*|construct_errors_for_spec\..*|(conventions|methods)\..*"
    r"|tolerance|scipy|implementations\..*|(stats_)?paths\..*"
)
# The axes that a file's outputs do not have, though its meta lists the values of all.
ABSENT_AXES = {
    "p_mean_variance.npz": {"cond", "loss"},
    "steps.npz": {"loss"},
    "training_losses.npz": {"clip", "cond"},  # training neither clips nor guides
}


class Settings(Mapping):
    """A file's `meta`, or a dict inside it; what is read leaves the set `unread`.

    `unread` names each leaf by the path to it, as in "hp.diffusion.steps".
    """

    def __init__(self, values: dict[str, Any], unread: set[str], path: str = ""):
        self._values, self._unread, self._path = values, unread, path
        unread |= {path + key for key, value in values.items() if not _children(value)}
        self._inner = {key: self._wrapped(key, value) for key, value in values.items()}

    def _wrapped(self, key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return Settings(value, self._unread, f"{self._path}{key}.")
        if _children(value):
            items = enumerate(value)
            return [Settings(v, self._unread, f"{self._path}{key}.{i}.") for i, v in items]
        return value

    def __getitem__(self, key: str) -> Any:
        self._unread.discard(self._path + key)
        return self._inner[key]

    def __contains__(self, key: object) -> bool:  # Mapping's own would read the value
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _children(value: Any) -> bool:
    """True for what holds settings of its own: a dict, or a list of dicts."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, dict) for item in value)
    return isinstance(value, dict)


class GoldenFile:
    """One npz file: its `meta`, its arrays by key, and the comparison with its outputs."""

    def __init__(self, filename: str):
        self.filename = filename
        self._arrays = np.load(FOLDER / filename, allow_pickle=False)
        self._unread_settings: set[str] = set()
        self.meta = Settings(json.loads(str(self._arrays["meta_json"])), self._unread_settings)
        self._unread_inputs = set(self.keys("in/") + self.keys("w/") + self.keys("floor/"))
        self._tolerance = load_json("tolerance.json").get(filename.removesuffix(".npz"), {})

    def keys(self, prefix: str) -> list[str]:
        """Whole keys that start with `prefix`, in the file's order."""
        return [key for key in self._arrays.files if key.startswith(prefix)]

    def array(self, key: str) -> np.ndarray:
        """The array as stored; float16 weights become float32, which is exact."""
        array = self._arrays[key]
        self._unread_inputs.discard(key)
        return array.astype(np.float32) if array.dtype == np.float16 else array

    def tolerance(self, key: str) -> dict[str, Any]:
        """The entry of tolerance.json for the output `key`; {} if there is none."""
        return self._tolerance.get(key.removeprefix("out/"), {})

    def unread(self) -> list[str]:
        """Settings and inputs that no test has read, but for documentation."""
        absent = ABSENT_AXES.get(self.filename, set())
        settings = {s for s in self._unread_settings - absent if not DOCUMENTATION.fullmatch(s)}
        return sorted(settings) + sorted(self._unread_inputs)

    def check(
        self,
        key: str,
        got: np.ndarray,
        exact: bool = False,
        floor: np.ndarray | None = None,
        rtol: float | None = None,
    ) -> None:
        """Asserts that `got` is the output `key`, as in "out/d1/q_mean", and counts it.

        Integers, and everything if `exact`, must be equal; what the original computes in float64
        agrees to 1e-12; what it computes in float32 to 20 times its own rounding floor: that of
        tolerance.json, relative to the largest value of a group, or `floor`, in absolute terms. A
        sum that cancels agrees to 2e-6 of the sum of its terms' absolute values. `rtol` is what the
        README states for this array instead.
        """
        want, got = self._arrays[key], np.asarray(got)
        name = f"{self.filename}: {key}"
        assert got.shape == want.shape, f"{name}: shape {got.shape}, not {want.shape}"
        compared[self.filename].add(key)
        if exact or not np.issubdtype(want.dtype, np.floating):
            np.testing.assert_array_equal(got, want, err_msg=name)
        elif rtol is not None:
            _assert_within(got, want, rtol * np.abs(want), 0, name)
        elif floor is not None:
            _assert_within(got, want, 20 * floor + 2e-6 * np.abs(want), 0, name)
        elif "abs_sum" in (entry := self._tolerance.get(key.removeprefix("out/"), {})):
            limit = max(20 * entry["max_abs_diff"], 2e-6 * entry["abs_sum"])
            _assert_within(got, want, np.full(want.shape, limit), 0, name)
        elif entry:
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
    """How many outputs each file holds."""
    files = sorted(path.name for path in FOLDER.glob("*.npz"))
    counts = {name: len(load(name).keys("out/")) for name in files}
    return {**counts, SPACE_TIMESTEPS: len(load_json(SPACE_TIMESTEPS))}


def to_nhwc(array: np.ndarray) -> np.ndarray:
    """[..., C, H, W] -> [..., H, W, C]."""
    return np.moveaxis(array, -3, -1)


def to_nchw(array: np.ndarray) -> np.ndarray:
    """[..., H, W, C] -> [..., C, H, W]."""
    return np.moveaxis(np.asarray(array), -1, -3)
