"""Images as uint8 arrays: decoding, cropping, flipping. The device makes them [-1, 1]."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

# Naming the formats keeps files of other kinds, such as PostScript, away from PIL's other readers.
FORMATS = ("PNG", "JPEG", "WEBP")


def decode_image(file: Path | BinaryIO, channels: int) -> np.ndarray:
    """Decodes a PNG, JPEG or WebP image, upright as its EXIF orientation says.

    Transparent pixels show white, which is what most pictures with transparency were drawn for.
    16-bit grey is divided by 257 and rounded, so that 65535 becomes 255.

    Args:
      file: path or open file.
      channels: 1 for grey (ITU-R 601 luma of colours), 3 for RGB.

    Returns:
      uint8 [H, W, channels].

    Raises:
      Exception: the file is broken; PIL's readers raise half a dozen kinds.
    """
    with Image.open(file, formats=FORMATS) as opened:
        image = ImageOps.exif_transpose(opened)  # of the pixels, which are all read here
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
    pil = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    while min(pil.size) >= 2 * size:
        pil = pil.resize((pil.width // 2, pil.height // 2), Image.Resampling.BOX)
    scale = size / min(pil.size)
    new_size = (round(pil.width * scale), round(pil.height * scale))
    array = np.array(pil.resize(new_size, Image.Resampling.BICUBIC))
    top, left = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    crop = array[top : top + size, left : left + size]
    return crop.reshape(size, size, image.shape[2])


def flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors `image` [H, W, C] left-right with probability 1/2."""
    return image[:, ::-1] if rng.integers(2) else image
