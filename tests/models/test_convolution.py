"""The convolution's own gradients are those of XLA, and fast in a loop on CPU."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ddpm_jax.models import convolution
from ddpm_jax.models.convolution import LAYOUT, conv_general_dilated

CASES = [  # side, taps, stride, padding
    (8, 3, 1, (1, 1)),
    (8, 3, 2, (1, 1)),
    (8, 3, 2, (0, 1)),
    (7, 3, 2, (1, 1)),
    (7, 3, 2, (0, 1)),
    (6, 1, 1, (0, 0)),
    (5, 3, 1, (0, 2)),
]


def arrays(side: int, taps: int, stride: int, padding: tuple[int, int]):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, side, side + 2, 3))
    kernel = jax.random.normal(keys[1], (taps, taps, 3, 4))

    def native(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), (padding, padding), dimension_numbers=LAYOUT
        )

    def ours(x, kernel):
        return conv_general_dilated(x, kernel, (stride, stride), (padding, padding))

    dy = jax.random.normal(keys[2], jax.eval_shape(native, x, kernel).shape)
    return x, kernel, dy, native, ours


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_those_of_xla(case):
    x, kernel, dy, native, ours = arrays(*case)
    want, got = jax.vjp(native, x, kernel), jax.vjp(ours, x, kernel)
    np.testing.assert_array_equal(got[0], want[0])
    for ours_, xlas in zip(got[1](dy), want[1](dy), strict=True):
        np.testing.assert_allclose(ours_, xlas, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_kernels_gradient_in_bands_is_the_same(case, monkeypatch):
    x, kernel, dy, native, ours = arrays(*case)
    want = jax.vjp(native, x, kernel)[1](dy)[1]
    monkeypatch.setattr(convolution, "BAND_SIZE", dy.size // 4)
    text = jax.jit(lambda *a: jax.vjp(ours, *a[:2])[1](a[2])).lower(x, kernel, dy).as_text()
    bands = math.gcd(dy.shape[1], 4)
    assert text.count("stablehlo.convolution") == 1 + bands  # one for the gradient of x
    np.testing.assert_allclose(jax.vjp(ours, x, kernel)[1](dy)[1], want, rtol=1e-5, atol=1e-5)


def layouts(gradient, platform: str) -> set[str]:
    """The layouts of the convolutions in the program that a platform would get."""
    x, kernel, dy, native, ours = arrays(*CASES[0])
    function = {"native": native, "ours": ours}[gradient]
    traced = jax.jit(lambda *a: jax.vjp(function, *a[:2])[1](a[2])).trace(x, kernel, dy)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return set(re.findall(r"dim_numbers = (.*?->\[.*?\])", text))


def test_only_the_fast_layout_is_left_on_cpu_and_other_platforms_get_their_own():
    assert layouts("ours", "cpu") == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}
    assert layouts("ours", "tpu") == layouts("native", "tpu") != layouts("ours", "cpu")


def test_bfloat16_stays_bfloat16():
    x, kernel, dy, _, ours = arrays(*CASES[0])
    x, kernel, dy = (a.astype(jnp.bfloat16) for a in (x, kernel, dy))
    dx, dkernel = jax.vjp(ours, x, kernel)[1](dy)
    assert dx.dtype == dkernel.dtype == jnp.bfloat16
