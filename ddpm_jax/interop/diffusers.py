"""Weights of diffusers' UNet2DModel, in and out: its names, and its layout of attention.

Convolutions are OIHW and dense layers [out, in], as in OpenAI's files. The projections to q, k
and v are three layers, each with its heads in turn; ours is one layer, in either order.
"""

import re
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from ddpm_jax.config import ModelConfig
from ddpm_jax.interop.mismatch import check_names_and_shapes
from ddpm_jax.interop.openai import from_torch
from ddpm_jax.interop.weight_files import Weights

# Ours -> theirs inside a block, after its own name.
RULES = [
    (r"\.emb_proj\.", ".time_emb_proj."),
    (r"\.skip\.", ".conv_shortcut."),
    (r"\.norm\.", ".group_norm."),
    (r"\.proj_out\.", ".to_out.0."),
    (r"\.(kernel|scale|embedding)$", ".weight"),
]
# Names of attention before diffusers 0.15, which the first published weights still have.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_NAME = re.compile(rf"(\.attentions\.\d+)\.({'|'.join(OLD_NAMES)})\.")


def block_names(model: ModelConfig, names: Mapping[str, object]) -> dict[str, str]:
    """Our blocks -> theirs, for a U-Net with these `names` of parameters."""
    blocks = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.1": "time_embedding.linear_2",
        "label_emb": "class_embedding",
        "input_blocks.0.0": "conv_in",
        "middle_block.0": "mid_block.resnets.0",
        "middle_block.1": "mid_block.attentions.0",
        "middle_block.2": "mid_block.resnets.1",
        "out_norm": "conv_norm_out",
        "out_conv": "conv_out",
    }
    levels, layers = len(model.channel_mult), model.num_res_blocks

    def add(ours: str, theirs: str, layer: int) -> int:
        """Names a residual block and the attention after it; returns the number of layers."""
        blocks[f"{ours}.0"] = f"{theirs}.resnets.{layer}"
        attends = f"{ours}.1.qkv.kernel" in names
        if attends:
            blocks[f"{ours}.1"] = f"{theirs}.attentions.{layer}"
        return 1 + attends

    i = 0
    for level in range(levels):
        for layer in range(layers):
            i += 1
            add(f"input_blocks.{i}", f"down_blocks.{level}", layer)
        if level < levels - 1:
            i += 1
            blocks[f"input_blocks.{i}.0"] = f"down_blocks.{level}.downsamplers.0"
    i = 0
    for up in range(levels):
        for layer in range(layers + 1):
            count = add(f"output_blocks.{i}", f"up_blocks.{up}", layer)
            if layer == layers and up < levels - 1:
                blocks[f"output_blocks.{i}.{count}"] = f"up_blocks.{up}.upsamplers.0"
            i += 1
    return blocks


def their_name(name: str, blocks: Mapping[str, str]) -> str:
    """Their name of our parameter `name`; in a projection's name "qkv" stays."""
    lengths = {"input_blocks": 3, "output_blocks": 3, "middle_block": 2, "time_embed": 2}
    words = name.split(".")
    count = lengths.get(words[0], 1)
    name = ".".join([blocks[".".join(words[:count])], *words[count:]])
    for pattern, theirs in RULES:
        name = re.sub(pattern, theirs, name)
    return name


def heads_of(name: str, channels: int, model: ModelConfig) -> int:
    """The number of heads of the attention with the parameter `name`."""
    if model.num_head_channels:
        return channels // model.num_head_channels
    up = model.num_heads_upsample if name.startswith("output_blocks") else 0
    return up or model.num_heads


def to_diffusers(
    name: str, array: np.ndarray, blocks: Mapping[str, str], model: ModelConfig
) -> dict[str, np.ndarray]:
    """Our parameter `name` under their name, or the three of a qkv projection, in their layout."""
    theirs = their_name(name, blocks)
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif name.endswith(".kernel"):
        array = array.T
    if ".skip.kernel" in name:
        array = array[..., None, None]
    if ".qkv." not in name:
        return {theirs: array}
    channels = array.shape[0] // 3
    if model.attention_order == "legacy":
        heads = heads_of(name, channels, model)
        by_head = array.reshape(heads, 3, channels // heads, *array.shape[1:])
        projections = np.moveaxis(by_head, 1, 0)
    else:
        projections = array.reshape(3, channels, *array.shape[1:])
    return {
        theirs.replace(".qkv.", f".to_{letter}."): each.reshape(channels, *array.shape[1:])
        for letter, each in zip("qkv", projections, strict=True)
    }


def from_diffusers(
    name: str, weights: Weights, blocks: Mapping[str, str], model: ModelConfig
) -> np.ndarray:
    """The inverse of `to_diffusers`: our parameter `name` from their arrays."""
    theirs = their_name(name, blocks)
    if ".qkv." not in name:
        return from_torch(name, weights.take(theirs))
    qkv = np.stack([weights.take(theirs.replace(".qkv.", f".to_{letter}.")) for letter in "qkv"])
    _, channels, *rest = qkv.shape
    if model.attention_order == "legacy":
        heads = heads_of(name, channels, model)
        qkv = np.moveaxis(qkv.reshape(3, heads, channels // heads, *rest), 0, 1)
    return from_torch(name, qkv.reshape(3 * channels, *rest))


def import_weights(
    weights: Weights, abstract: Mapping[str, jax.ShapeDtypeStruct], model: ModelConfig
) -> dict[str, jax.Array]:
    """Our parameters, float32, from those of a UNet2DModel with the same settings.

    Raises UserError with the first names that differ, unless names and shapes are exactly those of
    the network that `abstract` describes.
    """
    weights = _renamed(weights)
    blocks = block_names(model, abstract)
    zeros = {name: np.broadcast_to(np.float32(0), leaf.shape) for name, leaf in abstract.items()}
    expected = {
        theirs: array.shape
        for name, zero in zeros.items()
        for theirs, array in to_diffusers(name, zero, blocks, model).items()
    }
    check_names_and_shapes(weights.shapes, expected)
    return {
        name: jax.device_put(
            np.ascontiguousarray(from_diffusers(name, weights, blocks, model), np.float32)
        )
        for name in abstract
    }


def exported(params: dict[str, jax.Array], model: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays of a UNet2DModel. Removes them from `params`."""
    blocks = block_names(model, params)
    for name in list(params):
        array = np.asarray(params.pop(name))
        for theirs, part in to_diffusers(name, array, blocks, model).items():
            yield theirs, np.array(part, np.float32, order="C")


def _renamed(weights: Weights) -> Weights:
    """The same arrays under today's names of attention."""
    old = {
        OLD_NAME.sub(lambda found: f"{found[1]}.{OLD_NAMES[found[2]]}.", name): name
        for name in weights.shapes
    }
    shapes = {name: weights.shapes[old[name]] for name in old}
    return Weights(shapes, lambda name: weights.take(old[name]))
