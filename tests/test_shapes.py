"""Shapes are types: a wrong one is an error that names the argument."""

import jax.numpy as jnp
import pytest
from flax import nnx
from jaxtyping import TypeCheckError

from ddpm_jax.config import ModelConfig
from ddpm_jax.diffusion import make_schedule, named_betas, q_sample
from ddpm_jax.models.layers import ResBlock, timestep_embedding
from ddpm_jax.sampling import class_log_prob

SCHEDULE = make_schedule(named_betas("cosine", 10))


def test_a_wrong_shape_names_the_argument():
    x, t = jnp.zeros((4, 8, 8, 3)), jnp.zeros(4, int)
    assert q_sample(SCHEDULE, x, t, x).shape == x.shape
    with pytest.raises(TypeCheckError, match=r"(?s)parameter 'noise'|noise"):
        q_sample(SCHEDULE, x, t, x[:, :4])
    with pytest.raises(TypeCheckError, match=r"(?s)parameter 't'|\bt\b"):
        q_sample(SCHEDULE, x, jnp.zeros(3, int), x)


def test_a_wrong_type_names_the_argument():
    with pytest.raises(TypeCheckError, match="labels"):
        class_log_prob(lambda x, t: x, jnp.zeros(4, float))


def test_a_wrong_shape_given_to_a_network_names_the_argument():
    block = nnx.eval_shape(lambda: ResBlock(32, 32, ModelConfig(channels=32), nnx.Rngs(0)))
    x, emb = jnp.zeros((4, 8, 8, 32)), jnp.zeros((4, 128))
    with pytest.raises(TypeCheckError, match="'emb'"):
        block(x, emb[:3])
    with pytest.raises(TypeCheckError, match="'t'"):
        timestep_embedding(x, 8)
