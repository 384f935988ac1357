"""Single layers, each with weights of its own, against the original code.

A layer's name says its kind; its settings are read off the shapes of its arrays where they can be.
"""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from ddpm_jax.config import ModelConfig
from ddpm_jax.interop.openai import from_torch, torch_name
from ddpm_jax.models.attention import Attention
from ddpm_jax.models.classifier import AttentionPool
from ddpm_jax.models.initializers import Rngs, Stream
from ddpm_jax.models.layers import (
    Downsample,
    GroupNorm,
    ResBlock,
    Upsample,
    downsample_mean,
    resize_bilinear,
)
from tests.parity.golden import load, to_nchw, to_nhwc

FILE = load("layers.npz")
LAYERS = [key.removeprefix("out/") for key in FILE.keys("out/")]
CONFIG = ModelConfig(channels=FILE.meta["config"]["emb_channels"] // 4)


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Of a layer's weights, by the original's names."""
    prefix = f"w/{name}/"
    return {key.removeprefix(prefix): FILE.array(key).shape for key in FILE.keys(prefix)}


def residual_block(name: str, rngs: Rngs) -> nnx.Module:
    weights = shapes(name)
    width, channels, *_ = weights["in_layers.2.weight"]
    config = replace(CONFIG, scale_shift_norm=weights["emb_layers.1.weight"][0] == 2 * width)
    before, after = FILE.array(f"in/{name}/x").shape[-1], FILE.array(f"out/{name}").shape[-1]
    resample = None if before == after else "up" if after > before else "down"
    skip_conv = weights.get("skip_connection.weight", ())[2:] == (3, 3)
    return ResBlock(channels, width, config, rngs, resample, skip_conv)


def resampling(name: str, rngs: Rngs) -> nnx.Module:
    config = replace(CONFIG, resample_with_conv=bool(shapes(name)))
    layer = Upsample if name.startswith("up") else Downsample
    return layer(FILE.array(f"in/{name}/x").shape[1], config, rngs)


def attention(name: str, rngs: Rngs) -> nnx.Module:
    per_head = re.search(r"headch(\d+)", name)
    config = replace(
        CONFIG,
        num_heads=FILE.meta["config"]["num_heads"],
        num_head_channels=int(per_head[1]) if per_head else 0,
        attention_order="new" if "new" in name else "legacy",
    )
    return Attention(FILE.array(f"in/{name}/x").shape[1], config, rngs)


def attention_pool(name: str, rngs: Rngs) -> nnx.Module:
    per_head = int(re.search(r"num_heads_channels=(\d+)", FILE.meta["doc"])[1])
    out_features, channels, _ = shapes(name)["c_proj.weight"]
    side = FILE.array(f"in/{name}/x").shape[-1]
    config = replace(CONFIG, num_head_channels=per_head)
    return AttentionPool(side, channels, out_features, config, rngs)


def group_norm(name: str, rngs: Rngs) -> nnx.Module:
    return GroupNorm(FILE.array(f"in/{name}/x").shape[1])


# First part of a layer's name -> what builds it, and where it is in our networks and in theirs.
BUILDERS = {
    "attn_pool": (attention_pool, "out_pool.", "out.2."),
    "attn_": (attention, "middle_block.1.", "middle_block.1."),
    "res_": (residual_block, "middle_block.0.", "middle_block.0."),
    "down_": (resampling, "input_blocks.3.0.", "input_blocks.3.0."),
    "up_": (resampling, "output_blocks.1.1.", "output_blocks.1.1."),
    "group_norm": (group_norm, "out_norm.", "out.0."),
}


def test_inputs_are_those_that_the_file_describes():
    widths = {FILE.meta["config"][key] for key in ("c1", "c2")}
    for name, shape in FILE.meta["shapes"].items():
        assert FILE.array(f"in/{name}/x").shape == tuple(shape)
        assert shape[1] in widths


def layer_of(name: str) -> nnx.Module:
    """The layer, with its weights under the names that they have in a network."""
    start = next(start for start in BUILDERS if name.startswith(start))
    build, ours, theirs = BUILDERS[start]
    layer = nnx.eval_shape(lambda: build(name, Stream()))
    weights = []
    for path, _ in nnx.to_flat_state(nnx.state(layer)):
        own = ours + ".".join(map(str, path))
        key = torch_name(own, "attention").removeprefix(theirs)
        weights.append((path, nnx.Param(from_torch(own, FILE.array(f"w/{name}/{key}")))))
    assert len(weights) == len(shapes(name))
    nnx.update(layer, nnx.from_flat_state(weights))
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_the_originals(name):
    x, want = to_nhwc(FILE.array(f"in/{name}/x")), FILE.array(f"out/{name}")
    if name.startswith("bilinear"):
        got = resize_bilinear(x, *want.shape[-2:])
    elif name.startswith("area"):
        got = downsample_mean(x, x.shape[1] // want.shape[-2])
    else:
        others = [FILE.array(f"in/{name}/emb")] if FILE.keys(f"in/{name}/emb") else []
        got = jax.jit(layer_of(name))(x, *others)
    got = np.asarray(got)
    FILE.check(f"out/{name}", got if got.ndim == 2 else to_nchw(got))
