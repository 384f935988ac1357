"""Images as the Inception network of each FID evaluator sees them: resized, in its range.

Evaluators resize differently. That moves pooled features by up to 1 %, spatial ones by 10 %: only
compare numbers of one protocol. Everything here runs inside `jit`; coordinates and weights follow
from static shapes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from ddpm_jax.models.inception import IMAGE_SIZE

Resized = Float[jax.Array, "batch 299 299 3"]
Resize = Callable[[jax.Array], jax.Array]  # uint8 [B, H, W, 3] -> float32 [B, 299, 299, 3], 0..255


def tf1_coordinates(side: int) -> np.ndarray:
    """TensorFlow 1's: i * side / 299, so that the first pixels coincide; float32."""
    scale = np.float32(side) / np.float32(IMAGE_SIZE)
    return np.arange(IMAGE_SIZE, dtype=np.float32) * scale


def half_pixel_coordinates(side: int) -> np.ndarray:
    """PyTorch's: (i + 1/2) * side / 299 - 1/2, so that the centres coincide; float32."""
    scale = np.float32(side) / np.float32(IMAGE_SIZE)
    centres = np.arange(IMAGE_SIZE, dtype=np.float32) + np.float32(0.5)
    return np.maximum(centres * scale - np.float32(0.5), np.float32(0))


def tf1_bilinear(images: UInt8[jax.Array, "batch height width 3"]) -> Resized:
    """TensorFlow 1's `resize_bilinear`, to the bit."""
    return _bilinear(images, tf1_coordinates)


def torch_bilinear(images: UInt8[jax.Array, "batch height width 3"]) -> Resized:
    """PyTorch's `interpolate(mode="bilinear")`, without antialiasing."""
    return _bilinear(images, half_pixel_coordinates)


def pil_bicubic(images: UInt8[jax.Array, "batch height width 3"]) -> Resized:
    """Pillow's bicubic filter on float32 channels, with antialiasing; clipped, not rounded."""
    _, height, width, _ = images.shape
    rows, columns = (jnp.asarray(bicubic_weights(side), jnp.float32) for side in (height, width))
    precise = jax.lax.Precision.HIGHEST
    x = jnp.einsum("xw,bhwc->bhxc", columns, images.astype(jnp.float32), precision=precise)
    return jnp.einsum("yh,bhxc->byxc", rows, x, precision=precise).clip(0, 255)


RESIZES: dict[str, Resize] = {
    "tf1_bilinear": tf1_bilinear,
    "torch_bilinear": torch_bilinear,
    "pil_bicubic": pil_bicubic,
}


def _bilinear(images: jax.Array, coordinates: Callable[[int], np.ndarray]) -> jax.Array:
    x = images.astype(jnp.float32)
    for axis in (2, 1):  # TensorFlow's order: left to right, then top to bottom
        side = x.shape[axis]
        position = coordinates(side)
        lower = np.minimum(position.astype(np.int32), side - 1)
        upper = np.minimum(lower + 1, side - 1)
        share = jnp.asarray(position - lower.astype(np.float32))
        share = share.reshape(-1, *(1,) * (3 - axis))
        x = _between(x.take(lower, axis), x.take(upper, axis), share)
    return x


def _between(start: jax.Array, end: jax.Array, share: jax.Array) -> jax.Array:
    """start + share * (end - start), each operation rounded.

    XLA would make the product and the sum one operation, rounded once, in spite of a barrier: a bit
    of 1 pixel in 18 would differ from TensorFlow's. The maximum, which changes nothing, is between.
    """
    return start + jnp.maximum(share * (end - start), -255)


def bicubic_weights(side: int) -> np.ndarray:
    """Pillow's matrix [299, side]: each row holds a pixel's weights, which add up to 1; float64.

    A piecewise cubic with a = -1/2 (Keys 1981), as wide as a new pixel where the image shrinks.
    """
    scale = side / IMAGE_SIZE
    stretch = max(scale, 1.0)
    centres = (np.arange(IMAGE_SIZE) + 0.5) * scale
    first = np.floor(centres - 2 * stretch + 0.5).clip(0)
    last = np.floor(centres + 2 * stretch + 0.5).clip(None, side)
    pixels = np.arange(side)
    distance = np.abs(pixels + 0.5 - centres[:, None]) / stretch
    near = 1 + distance**2 * (1.5 * distance - 2.5)
    far = 2 + distance * (-4 + distance * (2.5 - 0.5 * distance))
    weights = np.select([distance < 1, distance < 2], [near, far])
    weights *= (pixels >= first[:, None]) & (pixels < last[:, None])
    return weights / weights.sum(axis=1, keepdims=True)


class Protocol(NamedTuple):
    """How an evaluator makes a uint8 image the input of its network."""

    resize: Resize
    to_range: Callable[[jax.Array], jax.Array]  # 0..255 -> the network's range


def _tensorflow_range(v: jax.Array) -> jax.Array:
    return (v - 128) / 128


def _unit_range(v: jax.Array) -> jax.Array:
    return 2 * (v / 255) - 1


PROTOCOLS: dict[str, Protocol] = {
    # The TensorFlow graph's own input: ADM's evaluator, TTUR, torch-fidelity.
    "adm": Protocol(tf1_bilinear, _tensorflow_range),
    "clean": Protocol(pil_bicubic, _tensorflow_range),  # clean-fid, mode clean
    "pytorch_fid": Protocol(torch_bilinear, _unit_range),  # pytorch-fid
}


def to_network(protocol: str, images: UInt8[jax.Array, "batch height width 3"]) -> Resized:
    """The network's input for images of any size; `protocol` is a name in PROTOCOLS."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"there is no protocol {protocol}, only {', '.join(PROTOCOLS)}")
    resize, to_range = PROTOCOLS[protocol]
    return to_range(resize(images))
