"""Networks as pure functions: parameters are a flat dict of arrays, named as in PyTorch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from flax import nnx

from ddpm_jax.config import Config, data_shape
from ddpm_jax.models.mlp import MLP
from ddpm_jax.models.unet import UNet

Params = dict[str, jax.Array]


class Network(NamedTuple):
    """`init(key) -> params`, `apply(params, x, t, labels, dropout_key)`, abstract parameters."""

    init: Callable[[jax.Array], Params]
    apply: Callable[..., jax.Array]
    abstract: dict[str, jax.ShapeDtypeStruct]


def functional(build: Callable[[nnx.Rngs], nnx.Module]) -> Network:
    """Splits the module that `build(rngs)` makes into functions and a flat dict of parameters.

    A name joins the path to a parameter by dots, as in `input_blocks.1.0.conv1.kernel`. The module
    may hold nothing but parameters: no random state, no batch statistics.
    """
    graphdef, params, rest = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param, ...)
    if jax.tree.leaves(rest):
        raise TypeError(f"a model may hold parameters only, not {rest}")
    paths = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(params)}

    def init(key: jax.Array) -> Params:
        state = nnx.to_flat_state(nnx.state(build(nnx.Rngs(key)), nnx.Param))
        return {".".join(map(str, path)): value[...] for path, value in state}

    def apply(params: Params, *args: jax.Array | None) -> jax.Array:
        state = nnx.from_flat_state([(paths[name], nnx.Param(params[name])) for name in paths])
        return nnx.merge(graphdef, state)(*args)

    return Network(init, apply, jax.eval_shape(init, jax.random.key(0)))


def build_network(config: Config) -> Network:
    """The network of a run, for examples of the shape of its data."""
    shape = data_shape(config)
    if config.model.kind == "mlp":
        return functional(lambda rngs: MLP(config.model, shape[0], rngs))
    side, _, channels = shape
    return functional(lambda rngs: UNet(config.model, side, channels, channels, rngs))


def count_parameters(params: dict) -> int:
    """Number of scalars in a dict of parameters, abstract ones too."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
