"""Our U-Net and classifier in plain PyTorch, from the same settings: what ours is timed against.

Modules and parameters have our names, so that weights go over by rule (`load`). Images are
[B, C, H, W], best in `channels_last`; attention is `scaled_dot_product_attention`.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_jax.config import Config, ModelConfig, data_shape
from ddpm_jax.models.attention import heads_of


def timestep_embedding(t: Tensor, dim: int, order: str) -> Tensor:
    half = dim // 2
    steps = half if order == "cos_sin" else max(half - 1, 1)
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / steps
    angles = t.float()[:, None] * torch.exp(-math.log(10_000) * exponents)
    parts = [angles.cos(), angles.sin()]
    return torch.cat(parts if order == "cos_sin" else parts[::-1], dim=1)


class Downsample(nn.Module):
    def __init__(self, channels: int, config: ModelConfig):
        super().__init__()
        self.after = config.downsample_padding == "after"
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if self.after else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.after else x)


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class ResBlock(nn.Module):
    def __init__(
        self, in_channels: int, out_channels: int, config: ModelConfig, resample: str = ""
    ):
        super().__init__()
        groups, epsilon = config.norm_groups, config.norm_epsilon
        self.scale_shift = config.scale_shift_norm
        self.norm1 = nn.GroupNorm(groups, in_channels, epsilon)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.emb_proj = nn.Linear(4 * config.channels, out_channels * (1 + self.scale_shift))
        self.norm2 = nn.GroupNorm(groups, out_channels, epsilon)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.dropout = nn.Dropout(config.dropout)
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.resample = resample

    def resampled(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(self.resampled(F.silu(self.norm1(x))))
        emb = self.emb_proj(F.silu(emb))[:, :, None, None].to(h.dtype)
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + emb)
        h = self.conv2(self.dropout(F.silu(h)))
        return self.skip(self.resampled(x)) + h


def attend(qkv: Tensor, heads: int, order: str) -> Tensor:
    """[B, N, 3 * C] -> [B, N, C]."""
    batch, length, _ = qkv.shape
    if order == "legacy":
        q, k, v = qkv.view(batch, length, heads, -1).chunk(3, dim=-1)
    else:
        q, k, v = qkv.view(batch, length, 3, heads, -1).unbind(2)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, -1)


class Attention(nn.Module):
    def __init__(self, channels: int, config: ModelConfig):
        super().__init__()
        self.heads, self.order = heads_of(channels, config), config.attention_order
        self.norm = nn.GroupNorm(config.norm_groups, channels, config.norm_epsilon)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)
        h = self.proj_out(attend(self.qkv(h), self.heads, self.order))
        return x + h.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class Encoder(nn.Module):
    def __init__(self, config: ModelConfig, side: int, in_channels: int):
        super().__init__()
        self.config = config
        emb = 4 * config.channels
        self.time_embed = nn.ModuleList([nn.Linear(config.channels, emb), nn.Linear(emb, emb)])
        self.widths = [int(mult * config.channels) for mult in config.channel_mult]
        channels = self.widths[0] if config.first_width == "level" else config.channels
        self.input_blocks = nn.ModuleList(
            [nn.ModuleList([nn.Conv2d(in_channels, channels, 3, padding=1)])]
        )
        self.skips = [channels]
        for level, width in enumerate(self.widths):
            for _ in range(config.num_res_blocks):
                self.input_blocks.append(residual_block(channels, width, side >> level, config))
                channels = width
                self.skips.append(channels)
            if level < len(self.widths) - 1:
                self.input_blocks.append(nn.ModuleList([resampling(channels, "down", config)]))
                self.skips.append(channels)
        parts = [ResBlock(channels, channels, config), Attention(channels, config)]
        self.middle_block = nn.ModuleList([*parts, ResBlock(channels, channels, config)])

    def embed_time(self, t: Tensor) -> Tensor:
        emb = timestep_embedding(t, self.config.channels, self.config.timestep_embedding)
        return self.time_embed[1](F.silu(self.time_embed[0](emb)))

    def encode(self, h: Tensor, emb: Tensor) -> list[Tensor]:
        outputs = []
        for block in [*self.input_blocks, self.middle_block]:
            h = run_block(block, h, emb)
            outputs.append(h)
        return outputs


class UNet(Encoder):
    def __init__(self, config: ModelConfig, side: int, in_channels: int, out_channels: int):
        super().__init__(config, side, in_channels)
        classes = config.num_classes
        self.label_emb = nn.Embedding(classes, 4 * config.channels) if classes else None
        up = replace(config, num_heads=config.num_heads_upsample or config.num_heads)
        skips, channels = list(self.skips), self.widths[-1]
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(self.widths))):
            for i in range(config.num_res_blocks + 1):
                block = residual_block(channels + skips.pop(), width, side >> level, up)
                channels = width
                if level > 0 and i == config.num_res_blocks:
                    block.append(resampling(channels, "up", up))
                self.output_blocks.append(block)
        self.out_norm = nn.GroupNorm(config.norm_groups, channels, config.norm_epsilon)
        self.out_conv = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        emb = self.embed_time(t)
        if self.label_emb is not None:
            emb = emb + self.label_emb(labels)
        *skips, h = self.encode(x, emb)
        for block in self.output_blocks:
            h = run_block(block, torch.cat([h, skips.pop()], dim=1), emb)
        return self.out_conv(F.silu(self.out_norm(h))).float()


class AttentionPool(nn.Module):
    def __init__(self, side: int, channels: int, out_features: int, config: ModelConfig):
        super().__init__()
        self.heads = heads_of(channels, config)
        self.positional_embedding = nn.Parameter(torch.zeros(side**2 + 1, channels))
        self.qkv_proj = nn.Linear(channels, 3 * channels)
        self.c_proj = nn.Linear(channels, out_features)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([pixels.mean(dim=1, keepdim=True), pixels], dim=1)
        qkv = self.qkv_proj(tokens + self.positional_embedding)
        return self.c_proj(attend(qkv, self.heads, "new")[:, 0])


class Classifier(Encoder):
    """With the head of ADM, an attention pool."""

    def __init__(self, config: ModelConfig, side: int, in_channels: int):
        super().__init__(config, side, in_channels)
        channels = self.widths[-1]
        self.out_norm = nn.GroupNorm(config.norm_groups, channels, config.norm_epsilon)
        last = side >> (len(self.widths) - 1)
        self.out_pool = AttentionPool(last, channels, config.num_classes, config)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.encode(x, self.embed_time(t))[-1]
        return self.out_pool(F.silu(self.out_norm(h))).float()


def residual_block(channels: int, width: int, side: int, config: ModelConfig) -> nn.ModuleList:
    block = nn.ModuleList([ResBlock(channels, width, config)])
    if side in config.attention_resolutions:
        block.append(Attention(width, config))
    return block


def resampling(channels: int, direction: str, config: ModelConfig) -> nn.Module:
    if config.resblock_updown:
        return ResBlock(channels, channels, config, resample=direction)
    return Upsample(channels) if direction == "up" else Downsample(channels, config)


def run_block(block: nn.ModuleList, h: Tensor, emb: Tensor) -> Tensor:
    for layer in block:
        h = layer(h, emb) if isinstance(layer, ResBlock) else layer(h)
    return h


def build(config: Config) -> nn.Module:
    """The network of a run; of a classifier's, its classifier."""
    model, (side, _, channels) = config.model, data_shape(config)
    if model.kind == "classifier":
        return Classifier(model, side, channels)
    learned = config.diffusion.variance.startswith("learned")
    return UNet(model, side, channels, channels * (1 + learned))


def load(network: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Copies our parameters into the network; raises RuntimeError unless all names meet."""
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    state = {}
    for name, array in weights.items():
        ours, _, last = name.rpartition(".")
        kind = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(last, last)
        theirs = f"{ours}.{kind}" if ours else kind
        if last == "kernel":
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        state[theirs] = torch.from_numpy(np.ascontiguousarray(array).reshape(shapes[theirs]))
    network.load_state_dict(state)
