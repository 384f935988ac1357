"""The random numbers of sampling: each sample has its own, whatever the batch it is drawn in."""

from functools import partial

import jax

from ddpm_jax.diffusion.shapes import Array, Int

# Keeps the noise of sampling apart from that of training with the same seed.
SAMPLING = 0x5A3B1E


def sample_keys(seed: int | Array, index: Int[Array, " batch"], stream: int = 0) -> jax.Array:
    """A key for each sample, of its own index and the stream of random numbers alone."""
    key = jax.random.fold_in(jax.random.key(seed), SAMPLING + stream)
    return jax.vmap(partial(jax.random.fold_in, key))(index)


def standard_normal(keys: Array, number: int | Array, shape: tuple[int, ...]) -> Array:
    """Normal noise of the shape of one sample for each key, other noise for each number."""
    keys = jax.vmap(partial(jax.random.fold_in, data=number))(keys)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
