"""How parameters start: DDPM's initialisation, and one stream of random numbers for all of it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

ZERO_INIT = nnx.initializers.zeros_init()


class Stream:
    """Random numbers in (-1, 1) for all parameters of a network, handed out one after the other.

    It takes the place of `nnx.Rngs`, with which each shape of a parameter has a generator of its
    own to compile: a third of the default run's cold start. Without numbers it only counts.
    """

    def __init__(self, numbers: jax.Array | None = None):
        self.used, self._numbers = 0, numbers

    def params(self) -> "Stream":
        """What modules take for a key."""
        return self

    def uniform(self, shape: tuple[int, ...]) -> jax.Array:
        start, self.used = self.used, self.used + math.prod(shape)
        if self._numbers is None:
            return jnp.zeros(shape)
        return self._numbers[start : self.used].reshape(shape)


def draw(key: jax.Array, count: int) -> Stream:
    """A stream of as many numbers, uniformly distributed."""
    numbers = uniform(key, (count,))
    # Else XLA may draw all of them anew for each parameter.
    return Stream(jax.lax.optimization_barrier(numbers))


def uniform(source: jax.Array | Stream, shape: tuple[int, ...]) -> jax.Array:
    """The next numbers of a stream, or those of a key: float32 in (-1, 1)."""
    if isinstance(source, Stream):
        return source.uniform(shape)
    return jax.random.uniform(source, shape, minval=np.nextafter(np.float32(-1), 0), maxval=1)


def dense_init(source: jax.Array | Stream, shape: tuple[int, ...], _: object = None) -> jax.Array:
    """Uniform, of variance 1 / the mean of fan-in and fan-out (Glorot and Bengio 2010): DDPM's."""
    *taps, fan_in, fan_out = shape
    fan = math.prod(taps) * (fan_in + fan_out) / 2
    return uniform(source, shape) * math.sqrt(3 / fan)


def normal_init(source: jax.Array | Stream, shape: tuple[int, ...], _: object = None) -> jax.Array:
    """Normal, of variance 1 / the length of the last axis."""
    normal = math.sqrt(2) * jax.lax.erf_inv(uniform(source, shape))
    return normal * shape[-1] ** -0.5
