"""A network as pure functions of a flat dict of parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
from flax import nnx
from jaxtyping import Real

from ddpm_jax.config import Config, data_shape
from ddpm_jax.diffusion.process import VARIANCES
from ddpm_jax.diffusion.shapes import Array, Float, Int
from ddpm_jax.models import initializers
from ddpm_jax.models.classifier import Classifier
from ddpm_jax.models.mlp import MLP
from ddpm_jax.models.unet import UNet

Params = dict[str, Array]


class Apply(Protocol):
    """Calls a module with its parameters; a classifier takes no `low_res`."""

    def __call__(
        self,
        params: Params,
        x: Float[Array, "batch *shape"],
        t: Real[Array, " batch"],
        labels: Int[Array, " batch"] | None = None,
        dropout_key: jax.Array | None = None,
        low_res: Float[Array, "batch height width channels"] | None = None,
        /,
    ) -> Float[Array, "batch *out_shape"]: ...


class Network(NamedTuple):
    """A module as functions, and the shapes and dtypes of its parameters."""

    init: Callable[[jax.Array], Params]  # key -> parameters
    apply: Apply
    abstract: dict[str, jax.ShapeDtypeStruct]


def functional(
    build: Callable[[initializers.Rngs], nnx.Module], method: str = "__call__"
) -> Network:
    """Splits a module into functions and a flat dict of parameters; `apply` calls its `method`.

    The name of a parameter joins the path to it by dots, as in `input_blocks.1.0.conv1.kernel`.
    Raises TypeError for a module that holds more than parameters: random state, batch statistics.
    """
    counted = initializers.Stream()
    module = nnx.eval_shape(lambda: build(counted))
    graphdef, *states = nnx.split(module, nnx.Param, ...)
    params, rest = states
    if jax.tree.leaves(rest):
        raise TypeError(f"a model may hold parameters only, not {rest}")
    flat = {".".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(params)}
    abstract = {name: flat[name][1].get_value() for name in sorted(flat)}

    def init(key: jax.Array) -> Params:
        module = build(initializers.draw(key, counted.used))
        state = nnx.to_flat_state(nnx.state(module, nnx.Param))
        return {".".join(map(str, path)): value[...] for path, value in state}

    def apply(params: Params, *args: Array | None) -> Any:
        state = [(path, nnx.Param(params[name])) for name, (path, _) in flat.items()]
        return getattr(nnx.merge(graphdef, nnx.from_flat_state(state)), method)(*args)

    return Network(init, apply, abstract)


def build_network(config: Config) -> Network:
    """The network of a run, for examples of the shape of its data.

    A denoiser with a learned variance returns twice the channels: first the prediction, then the
    variance.
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
    """A run's classifier without its head; `apply(params, x, t)` takes all of its parameters."""
    *sides, channels = data_shape(config)
    return functional(
        lambda rngs: Classifier(config.model, sides[0], channels, rngs), method="features"
    )


def count_parameters(params: Params | dict[str, jax.ShapeDtypeStruct]) -> int:
    """Number of scalars in a dict of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
