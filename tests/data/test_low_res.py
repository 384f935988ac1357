"""Images to enlarge, from folders and files. Wrong ones: tests/generation/test_super_resolution."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.config import DataConfig
from ddpm_jax.data import centre_crop, shrink
from ddpm_jax.data.low_res import read_low_res

DATA = DataConfig(image_size=16, channels=3, low_res_size=4, labels="names")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, side in [("cat_1.png", 4), ("dog_1.png", 23), ("dog_2.png", 9)]:
        pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def test_images_of_a_folder_come_in_order_cropped_and_labelled(folder: Path) -> None:
    images, labels = read_low_res(folder, DATA, None, 2)
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    exact, large, middle = (np.asarray(Image.open(path)) for path in sorted(folder.iterdir()))
    np.testing.assert_array_equal(images[0], exact)
    np.testing.assert_array_equal(images[1], shrink(centre_crop(large, 16)[None], 4)[0])
    np.testing.assert_array_equal(images[2], centre_crop(middle, 4))
    np.testing.assert_array_equal(labels, [0, 1, 1])
    few, labels = read_low_res(folder, DATA, 2, 2)
    np.testing.assert_array_equal(few, images[:2])
    np.testing.assert_array_equal(labels, [0, 1])
    assert read_low_res(folder, DATA, None, 0)[1] is None


def test_samples_are_found_by_their_file_and_by_their_folder(tmp_path: Path) -> None:
    arrays = np.zeros((5, 4, 4, 3), np.uint8), np.arange(5) % 2
    np.savez(tmp_path / "samples.npz", *arrays)
    Image.new("RGB", (4, 4)).save(tmp_path / "grid.png")
    for path in (tmp_path, tmp_path / "samples.npz"):
        images, labels = read_low_res(path, DATA, 3, 2)
        assert images.shape == (3, 4, 4, 3) and labels.dtype == np.int32
        np.testing.assert_array_equal(labels, [0, 1, 0])
