"""A multi-layer perceptron for points of the plane."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Real

from ddpm_jax.config import ModelConfig
from ddpm_jax.diffusion.shapes import Array, Float, Int
from ddpm_jax.models.initializers import Rngs
from ddpm_jax.models.layers import FLOAT32, linear, timestep_embedding


class MLP(nnx.Module):
    """`config.num_res_blocks` hidden layers, each of which adds a projected embedding of t."""

    def __init__(self, config: ModelConfig, features: int, out_features: int, rngs: Rngs):
        dtype = jnp.dtype(config.dtype)
        width, depth = config.channels, config.num_res_blocks
        sizes = [features] + [width] * depth
        self.config, self.dtype = config, dtype
        self.hidden = nnx.List([linear(a, width, dtype, rngs) for a in sizes[:-1]])
        self.time_proj = nnx.List([linear(width, width, dtype, rngs) for _ in range(depth)])
        self.out = linear(width, out_features, FLOAT32, rngs)

    def __call__(
        self,
        x: Float[Array, "batch features"],
        t: Real[Array, " batch"],
        labels: Int[Array, " batch"] | None = None,
        dropout_key: jax.Array | None = None,
        low_res: Array | None = None,
    ) -> Float[Array, "batch out_features"]:
        """float32. Called as the U-Net is; labels, dropout_key and low_res are ignored."""
        emb = timestep_embedding(t, self.config.channels, order=self.config.timestep_embedding)
        emb = emb.astype(self.dtype)
        h = x.astype(self.dtype)
        for hidden, time_proj in zip(self.hidden, self.time_proj, strict=True):
            h = nnx.silu(hidden(h) + time_proj(emb))
        return self.out(h)
