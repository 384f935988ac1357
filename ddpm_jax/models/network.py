"""A network as pure functions of a flat dict of parameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from flax import nnx

from ddpm_jax.config import Config, data_shape
from ddpm_jax.diffusion.process import VARIANCES
from ddpm_jax.models import initializers
from ddpm_jax.models.classifier import Classifier
from ddpm_jax.models.mlp import MLP
from ddpm_jax.models.unet import UNet

Params = dict[str, jax.Array]


class Network(NamedTuple):
    """A module as functions: `init(key) -> params`, `apply(params, ...)`, abstract parameters.

    `apply` goes on with the arguments of the module: x, t, labels, dropout_key and, but for a
    classifier, low_res. All after t may be left out.
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[..., jax.Array]
    abstract: dict[str, jax.ShapeDtypeStruct]


def functional(build: Callable[[nnx.Rngs], nnx.Module], method: str = "__call__") -> Network:
    """Splits the module that `build(rngs)` makes into functions and a flat dict of parameters.

    `apply` calls the method of that name.

    A name joins the path to a parameter by dots, as in `input_blocks.1.0.conv1.kernel`. The module
    may hold nothing but parameters: no random state, no batch statistics.
    """
    counted = initializers.Stream()
    graphdef, params, rest = nnx.split(nnx.eval_shape(lambda: build(counted)), nnx.Param, ...)
    if jax.tree.leaves(rest):
        raise TypeError(f"a model may hold parameters only, not {rest}")
    paths = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(params)}

    def init(key: jax.Array) -> Params:
        module = build(initializers.draw(key, counted.used))
        state = nnx.to_flat_state(nnx.state(module, nnx.Param))
        return {".".join(map(str, path)): value[...] for path, value in state}

    def apply(params: Params, *args: jax.Array | None) -> jax.Array:
        state = nnx.from_flat_state([(paths[name], nnx.Param(params[name])) for name in paths])
        return getattr(nnx.merge(graphdef, state), method)(*args)

    return Network(init, apply, jax.eval_shape(init, jax.random.key(0)))


def build_network(config: Config) -> Network:
    """The network of a run, for examples of the shape of its data.

    With a learned variance a denoiser returns twice the channels: the mean's, then the variance's.
    """
    model, (*sides, channels) = config.model, data_shape(config)
    learned = VARIANCES[config.diffusion.variance].learned
    out_channels = channels * (2 if learned else 1)
    in_channels = channels * (2 if config.data.low_res_size else 1)
    match model.kind:
        case "mlp":
            return functional(lambda rngs: MLP(model, channels, out_channels, rngs))
        case "classifier":
            return functional(lambda rngs: Classifier(model, sides[0], channels, rngs))
        case "unet":
            return functional(lambda rngs: UNet(model, sides[0], in_channels, out_channels, rngs))


def build_features(config: Config) -> Network:
    """The network of a classifier's run without its head: `apply(params, x, t) -> [B, features]`.

    It takes the parameters of that run.
    """
    *sides, channels = data_shape(config)
    return functional(
        lambda rngs: Classifier(config.model, sides[0], channels, rngs), method="features"
    )


def count_parameters(params: dict) -> int:
    """Number of scalars in a dict of parameters, abstract ones too."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
