"""Modules and networks with every parameter random, so that no layer is zero.

Drawn by numpy: compiling the initialisers would take longer than the tests.
"""

from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddpm_jax.models.initializers import Stream


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def randomised(build, *args, **kwargs):
    """build(*args, rngs=...) with every parameter random."""
    module = nnx.eval_shape(lambda: build(*args, rngs=Stream(), **kwargs))
    leaves, tree = jax.tree.flatten(nnx.state(module))
    values = [0.3 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)]
    nnx.update(module, jax.tree.unflatten(tree, values))
    return module


def random_params(net):
    """Parameters of a network, scaled to keep what passes through them in size."""
    rng = np.random.default_rng(0)

    def draw(name, shape):
        value = rng.normal(size=shape) / np.sqrt(prod(shape[:-1]))
        return jnp.asarray(1 + 0.1 * value if name.endswith(".scale") else value, jnp.float32)

    return {name: draw(name, leaf.shape) for name, leaf in net.abstract.items()}
