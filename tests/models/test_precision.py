"""What runs in bfloat16 and what in float32, read off the program of the loss; and remat."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    build_diffusion,
    data_shape,
)
from ddpm_jax.models import build_network
from ddpm_jax.training.objectives import make_objective
from tests.models.helpers import random_params

UNET = Config(
    data=DataConfig(image_size=8, channels=3),
    model=ModelConfig(
        channels=8,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(4,),
        num_classes=3,
        dropout=0.1,
        norm_groups=4,
        dtype="bfloat16",
    ),
    diffusion=DiffusionConfig(timesteps=50),
)
CONFIGS = {
    "unet": UNET,
    "classifier": replace(UNET, model=replace(UNET.model, kind="classifier")),
    "mlp": replace(
        UNET,
        data=DataConfig(name="s_curve"),
        model=ModelConfig(kind="mlp", channels=8, dtype="bfloat16"),
    ),
}
# Products in float32 beside the two of the embedding of t and those in norms: those of the head.
FLOAT32_PRODUCTS = {"unet": (2, 1), "classifier": (2 + 4, 0), "mlp": (1, 0)}  # matmuls, convs


def loss_and_inputs(config: Config, size: int = 4) -> tuple[Callable, tuple]:
    """The mean loss as a function of (params, examples, dropout_key), and what to call it with."""
    network = build_network(config)
    rng = np.random.default_rng(0)
    shape = (size, *data_shape(config))
    examples = {
        "x": jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32),
        "noise": jnp.asarray(rng.normal(size=shape), jnp.float32),
        "label": jnp.arange(size) % 3,
        "t": jnp.arange(size) * 10,
        "weight": jnp.ones(size),
    }
    objective = make_objective(config, build_diffusion(config.diffusion), network)

    def loss(params: dict, examples: dict, dropout_key: jax.Array) -> jax.Array:
        return objective(params, examples, dropout_key)["loss"].mean()

    return loss, (random_params(network), examples, jax.random.key(1))


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a program, those of its inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        inner = jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        )
        for program in inner:
            if hasattr(program, "eqns"):
                yield from equations(program)


@pytest.mark.parametrize("kind", CONFIGS)
def test_products_run_in_bfloat16_and_norms_softmax_embedding_head_and_loss_in_float32(kind):
    loss, inputs = loss_and_inputs(CONFIGS[kind])
    with jax.default_matmul_precision("default"):
        program = jax.make_jaxpr(loss)(*inputs)
    assert [str(out.dtype) for out in program.out_avals] == ["float32"]
    read = Counter()
    for equation in equations(program):
        name, of = equation.primitive.name, {str(v.aval.dtype) for v in equation.invars}
        # A norm's means by group are products of full precision.
        if "HIGHEST" not in str(equation.params.get("precision")):
            read[name, *sorted(of)] += 1
        # Norms and losses sum up, take roots and logarithms; the softmax and the embedding of t
        # take maxima, exponentials and cosines.
        if name in ("reduce_sum", "reduce_max", "rsqrt", "sqrt", "log", "exp", "cos", "sin"):
            assert not any("bfloat16" in str(v.aval.dtype) for v in equation.invars), equation
    matmuls, convolutions = FLOAT32_PRODUCTS[kind]
    assert read["dot_general", "float32"] == matmuls and read["dot_general", "bfloat16"]
    assert read["conv_general_dilated", "float32"] == convolutions
    assert bool(read["conv_general_dilated", "bfloat16"]) == (kind != "mlp")
    assert not read["dot_general", "bfloat16", "float32"]


ONE_LEVEL = replace(UNET, model=replace(UNET.model, channel_mult=(1,), attention_resolutions=(8,)))


@pytest.fixture(scope="module")
def whole() -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss and its gradient in float32, without rematerialisation."""
    loss, inputs = loss_and_inputs(with_model(ONE_LEVEL, dtype="float32"))
    return jax.jit(jax.value_and_grad(loss))(*inputs)


def with_model(config: Config, **settings: object) -> Config:
    return replace(config, model=replace(config.model, **settings))


def test_gradients_of_bfloat16_are_float32_and_near_those_of_float32(whole):
    loss, inputs = loss_and_inputs(ONE_LEVEL)
    got, want = jax.jit(jax.grad(loss))(*inputs), whole[1]
    assert {str(leaf.dtype) for leaf in got.values()} == {"float32"}
    a, b = (np.concatenate([np.ravel(of[name]) for name in want]) for of in (got, want))
    assert 0.99 < a @ b / np.linalg.norm(a) / np.linalg.norm(b) < 1 - 1e-9


@pytest.mark.slow  # compiles a gradient twice
def test_remat_computes_the_same_gradient_with_dropout(whole):
    loss, inputs = loss_and_inputs(with_model(ONE_LEVEL, dtype="float32", remat=True))
    got, want = jax.jit(jax.value_and_grad(loss))(*inputs), whole
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    largest = max(np.abs(leaf).max() for leaf in want[1].values())
    for name in want[1]:
        np.testing.assert_allclose(got[1][name], want[1][name], atol=1e-5 * largest, err_msg=name)


@pytest.mark.parametrize("kind", ["unet", "classifier"])
def test_with_remat_the_gradient_keeps_what_goes_into_blocks_and_little_else(kind):
    def kept(config: Config) -> int:
        """Elements that the gradient holds, its inputs aside."""
        loss, inputs = loss_and_inputs(config, size=16)
        held = jax.eval_shape(lambda *inputs: jax.vjp(loss, *inputs)[1], *inputs)
        return sum(leaf.size for leaf in jax.tree.leaves(held)) - sum(
            np.size(leaf) for leaf in inputs[0].values()
        )

    assert kept(with_model(CONFIGS[kind], remat=True)) < 0.3 * kept(CONFIGS[kind])
