"""The Inception network: its pools, its tables, and what its two functions have in common."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from ddpm_jax.models import count_parameters
from ddpm_jax.models.inception import (
    BLOCKS,
    SHALLOW,
    build_inception,
    max_pool_same,
    mean_pool_same,
)

SHAPES = {"MaxPool_1": (73, 64), "MaxPool_2": (35, 192), "Mixed_5d": (35, 288)}
SHAPES |= {"Mixed_6e": (17, 768), "Mixed_7c": (8, 2048)}  # side, channels


@pytest.fixture(scope="module")
def params() -> dict[str, np.ndarray]:
    """Random weights that keep activations near 1."""
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=leaf.shape).astype(np.float32)
        * np.sqrt(2 / max(np.prod(leaf.shape[:-1]), 16))
        for name, leaf in build_inception().abstract.items()
    }


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (2, 299, 299, 3)).astype(np.float32)


def test_a_mean_at_the_edge_leaves_out_the_padding():
    x = jnp.arange(12.0).reshape(1, 3, 4, 1)
    pooled = mean_pool_same(x)[0, ..., 0]
    assert pooled.shape == (3, 4)
    assert pooled[0, 0] == x[0, :2, :2].mean() and pooled[1, 1] == x[0, :, :3].mean()
    np.testing.assert_array_equal(mean_pool_same(jnp.full((2, 8, 8, 3), 7.0)), 7.0)


def test_a_maximum_at_the_edge_is_of_the_images_pixels():
    x = -1 - jnp.arange(9.0).reshape(1, 3, 3, 1)
    assert max_pool_same(x)[0, 2, 2, 0] == x[0, 1, 1, 0]


def test_blocks_have_the_shapes_of_the_paper(params, x):
    found = jax.eval_shape(build_inception().details, params, x)
    assert found.blocks.keys() == BLOCKS.keys()
    for name, (side, channels) in SHAPES.items():
        assert found.blocks[name].shape == (2, side, side, channels)
    assert {width: mean.shape for width, mean in found.shallow.items()} == {
        width: (2, width) for width in SHALLOW
    }


def test_features_are_read_off_the_blocks(params, x):
    found = jax.jit(build_inception().details)(params, x)
    pool, spatial, logits = found.features
    alone = jax.jit(build_inception().features)(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), alone, found.features)
    np.testing.assert_allclose(pool, found.blocks["Mixed_7c"].mean((1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(spatial.reshape(2, 17, 17, 7), found.blocks["Mixed_6d"][..., :7])
    np.testing.assert_allclose(logits, pool @ params["fc.kernel"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.biased_logits, logits + params["fc.bias"], atol=1e-4)
    np.testing.assert_array_less(0, found.blocks["Mixed_6d"].max((1, 2, 3)))


def test_the_parameters_are_those_of_23_million(params):
    assert count_parameters(params) == 23_833_744
    assert build_inception() is build_inception()


def test_another_size_is_refused(params, x):
    with pytest.raises(TypeCheckError, match=r"299"):
        build_inception().features(params, x[:, :256, :256])
