"""Decoding, cropping and flipping of images."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data import centre_crop, decode_image, flip, random_crop, shrink


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_of_the_right_size_is_returned_as_it_is(channels: int) -> None:
    image = noise(8, 8, channels)
    assert centre_crop(image, 8) is image
    # What the general path would do: PIL's resize to the same size copies.
    pil = Image.fromarray(image.squeeze())
    same = np.array(pil.resize((8, 8), Image.Resampling.BICUBIC)).reshape(image.shape)
    np.testing.assert_array_equal(same, image)


@pytest.mark.parametrize("shape", [(5, 9), (8, 21), (16, 16), (33, 17), (100, 40), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_has_the_size_asked_for(shape: tuple[int, int], channels: int) -> None:
    crop = centre_crop(noise(*shape, channels), 8)
    assert crop.shape == (8, 8, channels) and crop.dtype == np.uint8


def test_grey_crop_is_a_channel_of_the_colour_crop() -> None:
    grey = noise(37, 50, 1)
    colour = centre_crop(np.repeat(grey, 3, axis=2), 8)
    np.testing.assert_array_equal(centre_crop(grey, 8), colour[..., :1])


def test_crop_takes_the_centre() -> None:
    image = np.zeros((8, 24, 1), np.uint8)
    image[:, 8:16] = 200
    np.testing.assert_array_equal(centre_crop(image, 8), np.full((8, 8, 1), 200))


@pytest.mark.parametrize("shape", [(8, 8), (5, 9), (8, 40), (33, 17), (100, 40), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_random_crop_has_the_size_asked_for(shape: tuple[int, int], channels: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        crop = random_crop(noise(*shape, channels), 8, rng)
        assert crop.shape == (8, 8, channels) and crop.dtype == np.uint8


def test_random_crop_lies_inside_and_shows_four_fifths_or_more_of_the_shorter_side() -> None:
    # Red rises with the row and green with the column: the corners tell where a crop was cut.
    rows, columns = np.mgrid[:100, :150]
    image = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
    rng = np.random.default_rng(0)
    crops = [random_crop(image, 40, rng)[..., :2].astype(int) for _ in range(400)]
    first, last = np.array([c[0, 0] for c in crops]), np.array([c[-1, -1] for c in crops])
    sides = last - first
    assert (np.abs(sides[:, 0] - sides[:, 1]) <= 3).all()  # squares
    assert 75 <= sides.min() < 82 and 96 < sides.max() <= 100
    assert (first.min(axis=0) <= 5).all() and (last.max(axis=0) >= [95, 145]).all()


def test_random_crop_draws_its_size_then_its_row_then_its_column() -> None:
    asked = []

    class Lowest:
        def integers(self, low: int, high: int) -> int:
            asked.append((low, high))
            return low

    crop = random_crop(noise(64, 96, 3), 32, Lowest())
    assert asked == [(32, 41), (0, 1), (0, 17)]
    np.testing.assert_array_equal(crop, centre_crop(noise(64, 96, 3)[:, :64], 32))


def test_shrinking_takes_the_mean_of_each_square() -> None:
    images = np.stack([noise(6, 6, 3), noise(7, 6, 3)[1:]])
    small = shrink(images, 2)
    assert small.shape == (2, 2, 2, 3) and small.dtype == np.uint8
    assert abs(small[1, 0, 1, 2] - images[1, :3, 3:, 2].mean()) <= 0.5
    np.testing.assert_array_equal(shrink(images, 6), images)


def test_flip_mirrors_left_and_right_half_of_the_time() -> None:
    image, rng = noise(4, 5, 3), np.random.default_rng(0)
    flipped = 0
    for _ in range(1000):
        got = flip(image, rng)
        if not np.array_equal(got, image):
            np.testing.assert_array_equal(got, image[:, ::-1])
            flipped += 1
    assert 440 < flipped < 560  # 500 +- 3.8 sigma


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_lossless_colour_and_grey(kind: str) -> None:
    image = noise(6, 7, 3)
    file = encoded(Image.fromarray(image), kind, lossless=True)
    np.testing.assert_array_equal(decode_image(file, 3), image)
    luma = (image @ np.array([0.299, 0.587, 0.114]))[..., None]
    file.seek(0)
    assert np.abs(decode_image(file, 1) - luma).max() <= 1


def test_grey_file_as_colour_and_cmyk_jpeg() -> None:
    grey = noise(6, 7)
    got = decode_image(encoded(Image.fromarray(grey)), 3)
    np.testing.assert_array_equal(got, np.repeat(grey[..., None], 3, axis=2))
    cmyk = Image.new("RGB", (8, 8), (200, 30, 60)).convert("CMYK")
    got = decode_image(encoded(cmyk, "JPEG", quality=100), 3)
    assert np.abs(got[0, 0].astype(int) - [200, 30, 60]).max() <= 3


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_grey_keeps_its_whole_range(channels: int) -> None:
    wide = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    got = decode_image(encoded(Image.fromarray(wide)), channels)
    assert got.shape == (1, 6, channels)
    np.testing.assert_array_equal(got[..., 0], [[0, 0, 1, 1, 128, 255]])


def test_transparent_pixels_are_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0] = 100
    rgba[0, :, 3] = [255, 0, 51]
    got = decode_image(encoded(Image.fromarray(rgba)), 3)
    np.testing.assert_array_equal(got, [[[100, 0, 0], [255, 255, 255], [224, 204, 204]]])
    grey_alpha = Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8), "LA")
    np.testing.assert_array_equal(decode_image(encoded(grey_alpha), 1), [[[7], [255]]])


def test_palettes_with_and_without_transparency() -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    np.testing.assert_array_equal(decode_image(encoded(image), 3), [[[10, 20, 30], [40, 50, 60]]])
    got = decode_image(encoded(image, transparency=0), 3)
    np.testing.assert_array_equal(got, [[[255, 255, 255], [40, 50, 60]]])


def test_black_and_white_files() -> None:
    bits = Image.fromarray(np.array([[True, False]]))
    np.testing.assert_array_equal(decode_image(encoded(bits), 1), [[[255], [0]]])


def test_exif_orientation_is_honoured() -> None:
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    got = decode_image(encoded(Image.fromarray(image), "JPEG", exif=exif), 3)
    assert got.shape == (32, 16, 3)
    assert got[:16].mean() > 250 and got[16:].mean() < 5


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_unreadable_exif_does_not_spoil_an_image() -> None:
    good = encoded(Image.fromarray(noise(8, 8, 3)), "JPEG").getvalue()
    junk = b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + b"\xff\xff\x12\x01"
    segment = b"\xff\xe1" + struct.pack(">H", len(junk) + 2) + junk
    got = decode_image(io.BytesIO(good[:2] + segment + good[2:]), 3)
    np.testing.assert_array_equal(got, decode_image(io.BytesIO(good), 3))
