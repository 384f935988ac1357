"""The classifier of noisy images that guides a diffusion model (ADM, section 4).

It is the encoder of the U-Net and a head, `config.pool`. The heads "attention", ADM's, and
"adaptive" pool the pixels of the middle block, by attention and by their mean. The heads "spatial"
and "spatial_v2" take the mean over pixels of every block.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Real

from ddpm_jax.config import ModelConfig
from ddpm_jax.diffusion.shapes import Array, Float, Int
from ddpm_jax.models.attention import attend, heads_of, queries_keys_values
from ddpm_jax.models.initializers import Rngs, normal_init
from ddpm_jax.models.layers import FLOAT32, GroupNorm, linear
from ddpm_jax.models.unet import Encoder, dropout_keys

HIDDEN = 2048  # width of the hidden layer of the spatial heads


class AttentionPool(nnx.Module):
    """Pools an image into one vector: the mean pixel attends to all pixels (CLIP, section 2.4)."""

    def __init__(
        self, side: int, channels: int, out_features: int, config: ModelConfig, rngs: Rngs
    ):
        self.heads = heads_of(channels, config)
        self.positional_embedding = nnx.Param(normal_init(rngs.params(), (side**2 + 1, channels)))
        self.qkv_proj = linear(channels, 3 * channels, FLOAT32, rngs)
        self.c_proj = linear(channels, out_features, FLOAT32, rngs)

    def __call__(
        self, x: Float[Array, "batch side side channels"]
    ) -> Float[Array, "batch out_features"]:
        pixels = x.reshape(x.shape[0], -1, x.shape[-1])
        tokens = jnp.concatenate([pixels.mean(axis=1, keepdims=True), pixels], axis=1)
        tokens += self.positional_embedding[...]
        # ADM packs this projection in the "new" order, whatever the order of the blocks.
        q, k, v = queries_keys_values(self.qkv_proj, tokens, self.heads, "new")
        return self.c_proj(attend(q, k, v)[:, 0])


class Classifier(Encoder):
    """Logits of the `config.num_classes` classes of x_t, given t."""

    def __init__(self, config: ModelConfig, image_size: int, in_channels: int, rngs: Rngs):
        super().__init__(config, image_size, in_channels, rngs)
        channels, side = self.widths[-1], image_size >> (len(self.widths) - 1)
        groups, epsilon, classes = config.norm_groups, config.norm_epsilon, config.num_classes
        if config.pool in ("spatial", "spatial_v2"):
            self.hidden_proj = linear(sum(self.output_channels), HIDDEN, FLOAT32, rngs)
            if config.pool == "spatial_v2":
                self.hidden_norm = GroupNorm(HIDDEN, groups, epsilon)
            self.out_proj = linear(HIDDEN, classes, FLOAT32, rngs)
            return

        self.out_norm = GroupNorm(channels, groups, epsilon)
        if config.pool == "attention":
            self.out_pool = AttentionPool(side, channels, classes, config, rngs)
        else:
            self.out_proj = linear(channels, classes, FLOAT32, rngs, zero=True)

    def __call__(
        self,
        x: Float[Array, "batch height width in_channels"],
        t: Real[Array, " batch"],
        labels: Int[Array, " batch"] | None = None,
        dropout_key: jax.Array | None = None,
    ) -> Float[Array, "batch classes"]:
        """float32. Called as the U-Net is; labels are ignored, for they are what it predicts."""
        outputs = self.encode(x, self.embed_time(t), dropout_keys(dropout_key))
        if self.config.pool in ("spatial", "spatial_v2"):
            means = [h.astype(jnp.float32).mean(axis=(1, 2)) for h in outputs]
            h = self.hidden_proj(jnp.concatenate(means, axis=-1))
            h = nnx.relu(h) if self.config.pool == "spatial" else nnx.silu(self.hidden_norm(h))
            return self.out_proj(h)

        h = nnx.silu(self.out_norm(outputs[-1], FLOAT32))
        if self.config.pool == "attention":
            return self.out_pool(h)
        return self.out_proj(h.mean(axis=(1, 2)))

    def features(
        self, x: Float[Array, "batch height width in_channels"], t: Real[Array, " batch"]
    ) -> Float[Array, "batch features"]:
        """The mean over pixels of the middle block's output, float32."""
        middle = self.encode(x, self.embed_time(t), dropout_keys(None))[-1]
        return middle.astype(jnp.float32).mean(axis=(1, 2))
