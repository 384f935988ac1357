"""LPIPS: what holds of a distance, and the same numbers as in plain PyTorch."""

import jax
import numpy as np
import pytest
import torch

from ddpm_jax.generation.reconstruction import by_lpips
from ddpm_jax.interop.lpips_weights import file_layout
from ddpm_jax.models.lpips import MIN_SIZE, lpips_distance, param_shapes
from tests import lpips_by_torch

ALEXNET, LINEAR = lpips_by_torch.random_weights()
PARAMS = {
    name: np.moveaxis((ALEXNET | LINEAR)[in_file].numpy(), (0, 1), (-1, -2))
    if len(shape) == 4
    else ALEXNET[in_file].numpy()
    for name, (in_file, shape) in file_layout().items()
}


def pairs(height: int, width: int, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    x, noise = np.random.default_rng(0).uniform(-1, 1, (2, count, height, width, 3))
    return x.astype(np.float32), np.clip(x + 0.2 * noise, -1, 1).astype(np.float32)


@pytest.mark.parametrize("size", [(MIN_SIZE, MIN_SIZE), (64, 47)], ids=str)
def test_the_distance_is_that_of_pytorch(size):
    x, y = pairs(*size)
    found = jax.jit(lpips_distance)(PARAMS, x, y)
    images = (torch.from_numpy(each).movedim(-1, 1) for each in (x, y))
    want = lpips_by_torch.distance(ALEXNET, LINEAR, *images)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    assert found.min() > 1e-3


def test_it_is_symmetric_and_grows_from_0_for_equal_images():
    x, y = pairs(MIN_SIZE, MIN_SIZE)
    distance = jax.jit(lpips_distance)
    np.testing.assert_array_equal(distance(PARAMS, x, y), distance(PARAMS, y, x))
    np.testing.assert_array_equal(distance(PARAMS, x, x), 0)
    assert (distance(PARAMS, x, (x + y) / 2) < distance(PARAMS, x, y)).all()


def test_pixels_are_measured_batch_by_batch_and_grey_as_rgb(monkeypatch):
    grey = np.random.default_rng(0).integers(0, 256, (2, 3, MIN_SIZE, MIN_SIZE, 1)).astype(np.uint8)
    rgb = grey.repeat(3, axis=-1)
    want = jax.jit(lpips_distance)(PARAMS, *(rgb.astype(np.float32) / 127.5 - 1))
    monkeypatch.setattr("ddpm_jax.generation.reconstruction.BATCH", 1)
    np.testing.assert_allclose(by_lpips(PARAMS, *grey), want, rtol=1e-5)
    np.testing.assert_allclose(by_lpips(PARAMS, rgb[0], rgb[1].astype(float)), want, rtol=1e-5)


def test_images_of_which_a_pool_leaves_nothing_are_refused():
    with pytest.raises(ValueError, match=r"31 pixels a side, not \(30, 64\)"):
        lpips_distance(PARAMS, *pairs(MIN_SIZE - 1, 64))
    images = (torch.from_numpy(each).movedim(-1, 1) for each in pairs(MIN_SIZE - 1, 64))
    with pytest.raises(RuntimeError, match="Output size is too small"):
        lpips_by_torch.distance(ALEXNET, LINEAR, *images)


def test_the_parameters_are_those_of_alexnets_convolutions_and_one_a_channel():
    # 2,469,696 of torchvision's features, and 64 + 192 + 384 + 256 + 256.
    assert sum(np.prod(shape) for shape in param_shapes().values()) == 2_469_696 + 1_152
