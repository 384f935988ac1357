"""Images as uint8 arrays: decoding, cropping, flipping. The device makes them [-1, 1]."""

import math
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

# Naming the formats keeps files of other kinds, such as PostScript, from PIL's other readers.
FORMATS = ("PNG", "JPEG", "WEBP")


class RandomIntegers(Protocol):
    """`integers(low, high)` draws from low to high - 1."""

    def integers(self, low: int, high: int) -> int: ...


def decode_image(file: Path | BinaryIO, channels: int) -> np.ndarray:
    """Decodes a PNG, JPEG or WebP image and turns it as its EXIF orientation says.

    Transparent pixels become white, the background that most such pictures are made for. 16-bit
    grey is divided by 257 and rounded, so that 65535 becomes 255.

    Args:
      file: path or open file.
      channels: 1 for grey (ITU-R 601 luma of colours), 3 for RGB.

    Returns:
      uint8 [H, W, channels].

    Raises:
      Exception: the file is broken, or has more than 179 million pixels. PIL's readers raise half
        a dozen kinds.
    """
    from PIL import Image, ImageOps  # here, so that what decodes no images need not load it

    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise OSError("is no regular file")  # opening a pipe would wait for ever
    with Image.open(file, formats=FORMATS) as opened:
        image = ImageOps.exif_transpose(opened)  # reads all pixels
        if image.mode.startswith("I"):  # 16-bit grey: PIL's own conversion would clip at 255
            wide = np.asarray(image).astype(np.uint32)
            grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
            return np.repeat(grey[:, :, None], channels, axis=2)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        array = np.array(image.convert("L" if channels == 1 else "RGB"))
    return array.reshape(*array.shape[:2], channels)


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The central square of an image, resized as ADM's `center_crop_arr` does it, to the bit.

    Halves with a box filter while the shorter side is at least twice `size`, then resizes
    bicubically so that the shorter side is `size`, then cuts out the centre.

    Args:
      image: uint8 [H, W, C], C 1 or 3.
      size: side of the result in pixels.

    Returns:
      uint8 [size, size, C]; the image itself if it has that shape already.
    """
    if image.shape[:2] == (size, size):
        return image
    image = _resized(image, size)
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


def random_crop(image: np.ndarray, size: int, rng: RandomIntegers) -> np.ndarray:
    """A square from a random place of an image, as ADM's `random_crop_arr` cuts it, to the bit.

    The square's side is 0.8 to 1 of the image's shorter side. Draws the new length of the shorter
    side from [size, ceil(size / 0.8)] and resizes as `centre_crop` does; then draws the first row
    and the first column of the square.

    Args:
      image: uint8 [H, W, C], C 1 or 3.
      size: side of the result in pixels.
      rng: draws three integers; `np.random.Generator` will do.

    Returns:
      uint8 [size, size, C].
    """
    image = _resized(image, int(rng.integers(size, math.ceil(size / 0.8) + 1)))
    top = int(rng.integers(0, image.shape[0] - size + 1))
    left = int(rng.integers(0, image.shape[1] - size + 1))
    return image[top : top + size, left : left + size]


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    """The whole image [H, W, C], resized so that its shorter side is `side`."""
    from PIL import Image

    pil = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    while min(pil.size) >= 2 * side:
        pil = pil.resize((pil.width // 2, pil.height // 2), Image.Resampling.BOX)
    scale = side / min(pil.size)
    new_size = (round(pil.width * scale), round(pil.height * scale))
    array = np.array(pil.resize(new_size, Image.Resampling.BICUBIC))
    return array.reshape(*array.shape[:2], image.shape[2])


def flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors `image` [H, W, C] left-right with probability 1/2."""
    return image[:, ::-1] if rng.integers(2) else image


def shrink(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 [N, H, H, C] -> uint8 [N, side, side, C], the rounded mean of each square of pixels."""
    count, size, _, channels = images.shape
    squares = images.reshape(count, side, size // side, side, size // side, channels)
    return np.round(squares.mean(axis=(2, 4))).astype(np.uint8)
