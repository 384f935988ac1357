"""Resizing to the network's input: what must hold of every method."""

import jax
import numpy as np
import pytest
from PIL import Image

from ddpm_jax.evaluation.resize import RESIZES, bicubic_weights, to_network
from ddpm_jax.models.inception import IMAGE_SIZE

RNG = np.random.default_rng(0)
every_method = pytest.mark.parametrize("method", RESIZES)
SIZES = [(1, 1), (2, 7), (299, 5), (300, 298), (640, 31)]


def images(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)


@every_method
@pytest.mark.parametrize("size", SIZES)
def test_a_plain_image_stays_plain(method, size):
    plain = np.broadcast_to(np.uint8([0, 100, 255]), (2, *size, 3))
    resized = RESIZES[method](plain)
    assert resized.shape == (2, 299, 299, 3) and resized.dtype == np.float32
    np.testing.assert_allclose(resized, np.broadcast_to(plain[:, :1, :1], resized.shape), atol=1e-4)


@every_method
def test_an_image_of_the_right_size_stays_as_it_is(method):
    x = images(1, IMAGE_SIZE, IMAGE_SIZE)
    np.testing.assert_allclose(RESIZES[method](x), x, atol=1e-4)


@every_method
def test_images_do_not_mix_nor_do_channels(method):
    x = images(3, 20, 40)
    resized = np.asarray(RESIZES[method](x))
    np.testing.assert_allclose(resized[1:2], RESIZES[method](x[1:2]), rtol=1e-6)
    turned = RESIZES[method](x[..., ::-1])
    np.testing.assert_allclose(resized[..., ::-1], turned, rtol=1e-6)


@pytest.mark.parametrize("method", ["torch_bilinear", "pil_bicubic"])
def test_half_pixel_methods_mirror_a_mirrored_image(method):
    x = images(1, 23, 350)
    mirrored = np.asarray(RESIZES[method](x[:, ::-1, ::-1]))[:, ::-1, ::-1]
    np.testing.assert_allclose(mirrored, RESIZES[method](x), atol=2e-2)


@pytest.mark.parametrize("size", SIZES)
def test_pil_bicubic_is_pillows_filter_of_float_channels(size):
    x = images(1, *size)
    channels = [
        Image.fromarray(x[0, ..., c].astype(np.float32)).resize(
            (299, 299), Image.Resampling.BICUBIC
        )
        for c in range(3)
    ]
    want = np.stack([np.asarray(channel) for channel in channels], axis=-1).clip(0, 255)
    np.testing.assert_allclose(RESIZES["pil_bicubic"](x)[0], want, atol=2e-4)


def test_each_new_pixel_is_a_mean():
    for side in (1, 3, 299, 300, 1000):
        np.testing.assert_allclose(bicubic_weights(side).sum(axis=1), 1, rtol=1e-12)


def test_the_jitted_tf1_resize_rounds_as_numpy_does():
    """XLA would otherwise make one operation of a product and a sum."""
    x = images(1, 1, 64)
    position = np.arange(299, dtype=np.float32) * (np.float32(64) / np.float32(299))
    left = position.astype(int)
    right = np.minimum(left + 1, 63)
    share = (position - left.astype(np.float32))[:, None]
    row = x[0, 0].astype(np.float32)
    want = row[left] + (row[right] - row[left]) * share
    got = jax.jit(RESIZES["tf1_bilinear"])(x)
    np.testing.assert_array_equal(got[0], np.broadcast_to(want, (299, 299, 3)))


@pytest.mark.parametrize(
    ("protocol", "black", "white"),
    [("adm", -1, 127 / 128), ("clean", -1, 127 / 128), ("pytorch_fid", -1, 1)],
)
def test_a_protocol_maps_to_its_networks_range(protocol, black, white):
    x = np.zeros((2, 8, 8, 3), np.uint8)
    x[1] = 255
    ends = jax.jit(to_network, static_argnums=0)(protocol, x)[:, 0, 0, 0]
    np.testing.assert_allclose(ends, [black, white], atol=1e-6)


def test_an_unknown_protocol_is_an_error_that_lists_them():
    with pytest.raises(ValueError, match="no protocol fid, only adm, clean, pytorch_fid"):
        to_network("fid", images(1, 8, 8))
