"""The convolutions of inference: each way of computing them gives XLA's own result."""

import jax
import numpy as np
import pytest
from jax import lax

from ddpm_jax.models.inference_convolution import inference_convolution

LAYOUT = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("taps", "stride"), [((1, 1), 1), ((3, 3), 1), ((1, 7), 1), ((3, 3), 2)])
def test_it_is_the_convolution_of_xla(taps, stride, padding):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 8, 5)).astype(np.float32)
    kernel = rng.normal(size=(*taps, 5, 6)).astype(np.float32)
    options = {"dimension_numbers": LAYOUT, "precision": lax.Precision.HIGHEST}
    strides = (stride, stride)
    found = jax.jit(lambda x, k: inference_convolution(x, k, strides, padding, **options))(
        x, kernel
    )
    want = lax.conv_general_dilated(x, kernel, strides, padding, **options)
    np.testing.assert_allclose(found, want, atol=1e-5)
