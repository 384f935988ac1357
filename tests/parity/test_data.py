"""Image preparation against arrays that the original ADM code wrote."""

import re
from collections.abc import Callable

from ddpm_jax.data import centre_crop
from tests.parity.golden import GoldenFile


def test_centre_crop_is_adm_center_crop_arr_to_the_bit(golden: Callable[[str], GoldenFile]) -> None:
    cases = golden("data.npz")
    keys = [key for key in cases.keys("out/") if re.fullmatch(r"out/\w+/center_crop\d+", key)]
    assert keys
    for key in keys:
        _, case, name = key.split("/")
        size = int(name.removeprefix("center_crop"))
        got = centre_crop(cases.array(f"in/{case}/image"), size)
        cases.check(key, got, exact=True)
