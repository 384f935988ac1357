"""DDPM's initial parameters, and the one stream of random numbers that they are drawn from."""

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddpm_jax.diffusion.shapes import Array, Float

ZERO_INIT = nnx.initializers.zeros_init()


class Stream:
    """Random numbers in (-1, 1) for all parameters of a network, each used once.

    It takes the place of `nnx.Rngs`, which would compile a generator for each shape of a parameter:
    a third of the default run's cold start. Without numbers it counts how many are used.
    """

    def __init__(self, numbers: Float[Array, " count"] | None = None):
        self.used, self._numbers = 0, numbers

    def params(self) -> "Stream":
        """The stream in place of the key that `nnx.Rngs.params` returns."""
        return self

    def uniform(self, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """The next numbers; zeros if it only counts."""
        start, self.used = self.used, self.used + math.prod(shape)
        if self._numbers is None:
            return jnp.zeros(shape)
        return self._numbers[start : self.used].reshape(shape)


if TYPE_CHECKING:
    Rngs = Any  # Flax's modules declare nnx.Rngs, and use no more of it than Stream has
else:
    Rngs = nnx.Rngs | Stream  # what modules draw their parameters from


def draw(key: jax.Array, count: int) -> Stream:
    """A stream of `count` uniformly distributed numbers."""
    numbers = uniform(key, (count,))
    # Without the barrier XLA may draw all of them again for each parameter.
    return Stream(jax.lax.optimization_barrier(numbers))


def uniform(source: jax.Array | Stream, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Float32 numbers in (-1, 1): the next ones of a stream, or those of a key."""
    if isinstance(source, Stream):
        return source.uniform(shape)
    return jax.random.uniform(source, shape, minval=np.nextafter(np.float32(-1), 0), maxval=1)


def dense_init(
    source: jax.Array | Stream, shape: tuple[int, ...], _: object = None
) -> Float[Array, "..."]:
    """Uniform, with variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010), as DDPM's."""
    *taps, fan_in, fan_out = shape
    fan = math.prod(taps) * (fan_in + fan_out) / 2
    return uniform(source, shape) * math.sqrt(3 / fan)


def normal_init(
    source: jax.Array | Stream, shape: tuple[int, ...], _: object = None
) -> Float[Array, "..."]:
    """Normal, with variance 1 / shape[-1]."""
    normal = math.sqrt(2) * jax.lax.erf_inv(uniform(source, shape))
    return normal * shape[-1] ** -0.5
