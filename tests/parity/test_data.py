"""Image preparation against arrays that the original ADM code wrote."""

import random
import re
from collections.abc import Callable

from ddpm_jax.data import centre_crop, random_crop
from tests.parity.golden import GoldenFile


def cropped(cases: GoldenFile, kind: str) -> list[tuple[str, str, int]]:
    """(key, case, size) of the outputs of one kind of crop."""
    found = [re.fullmatch(rf"out/(\w+)/{kind}(\d+)", key) for key in cases.keys("out/")]
    return [(match[0], match[1], int(match[2])) for match in found if match]


def test_centre_crop_is_adm_center_crop_arr_to_the_bit(golden: Callable[[str], GoldenFile]) -> None:
    cases = golden("data.npz")
    assert cropped(cases, "center_crop")
    for key, case, size in cropped(cases, "center_crop"):
        got = centre_crop(cases.array(f"in/{case}/image"), size)
        cases.check(key, got, exact=True)


class Python:
    """Python's random integers as `random_crop` asks for them."""

    def __init__(self, seed: int):
        self.integers = random.Random(seed).randrange


def test_random_crop_is_adm_random_crop_arr_to_the_bit(golden: Callable[[str], GoldenFile]) -> None:
    cases = golden("data.npz")
    assert cropped(cases, "random_crop")
    for key, case, size in cropped(cases, "random_crop"):
        rng = Python(cases.meta["seeds"][case]["random_seed"])
        got = random_crop(cases.array(f"in/{case}/image"), size, rng)
        cases.check(key, got, exact=True)
