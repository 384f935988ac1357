"""The parameters of the reference Inception: a formula of the seed, the name and the index."""

import hashlib
from functools import cache

import numpy as np

from tests.parity.golden import Settings, load, load_json

STATE_DICT = "eval_state_dict.json"


@cache
def state_dict() -> dict[str, np.ndarray]:
    """All parameters in PyTorch's names, float32, without counters; checked against the sha256."""
    settings = load("eval_inception.npz").meta["weights"]
    weights = {
        name: parameter(name, tuple(shape), settings)
        for name, (shape, _) in load_json(STATE_DICT)["state_dict"].items()
        if not name.endswith("num_batches_tracked")
    }
    every = hashlib.sha256()
    for array in weights.values():
        every.update(array.astype("<f2").tobytes())
    assert every.hexdigest() == settings["sha256_all"]
    for name, check in settings["checks"].items():
        array = weights[name].ravel()
        assert array[:4].tolist() == check["first4"] and array[-1] == check["last"]
        assert array.sum(dtype=np.float64) == check["sum_float64"]
    return weights


def parameter(name: str, shape: tuple[int, ...], settings: Settings) -> np.ndarray:
    """One parameter: a small integer k, from its place's hash, times a power of two."""
    k = top_bytes(fnv1a(f"{settings['seed']}/{name}"), int(np.prod(shape))).reshape(shape)
    block, _, kind = name.rpartition(".")
    if name == "fc.weight":
        return np.float32((2 * k - 255) * 2.0 ** (1 - exponent(shape[1])))
    if name == "fc.bias":
        return np.float32((2 * k - 255) / 256)
    if kind == "weight" and len(shape) == 4:
        return np.float32((2 * k - 255) * 2.0 ** -exponent(int(np.prod(shape[1:]))))
    growth = 2.0 ** settings["var_exponent"][block.rpartition(".")[0]]
    values = {
        "weight": (256 + k) / 256,
        "bias": (2 * k - 255) / 1024,
        "running_mean": (2 * k - 255) / 1024 * growth,
        "running_var": (128 + k) / 256 * growth**2,
    }
    return np.float32(values[kind])


def exponent(fan_in: int) -> int:
    """The smallest e with 4^e >= 10923 fan_in, so that a sum over fan_in products is near 1."""
    e = 0
    while 4**e < 10923 * fan_in:
        e += 1
    return e


def fnv1a(text: str) -> int:
    """The 64-bit hash FNV-1a."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def top_bytes(start: int, count: int) -> np.ndarray:
    """The top bytes of `count` outputs of SplitMix64 with the state `start`, int64."""
    z = np.arange(1, count + 1, dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(56)).astype(np.int64)
