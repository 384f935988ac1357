"""State dicts of OpenAI's guided-diffusion and improved-diffusion, in and out.

Each of our parameters is one of theirs, under a name that RULES translate. Their layouts are
PyTorch's: convolutions OIHW, dense layers [out, in], attention's projections [out, in, 1].
"""

import re
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from ddpm_jax.config import ModelConfig
from ddpm_jax.interop.mismatch import check_names_and_shapes

# Ours -> theirs: the parts of names that differ.
RULES = [
    (r"^time_embed\.1\.", "time_embed.2."),
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.skip\.", ".skip_connection."),
    (r"^(input_blocks\.\d+\.0)\.conv\.", r"\1.op."),
    (r"^out_norm\.", "out.0."),
    (r"^out_conv\.", "out.2."),
    (r"\.(kernel|scale|embedding)$", ".weight"),
]
# The same for the head of a classifier, whose layers are numbered differently for each pooling.
POOL_RULES = {
    "adaptive": [(r"^out_proj\.", "out.3.")],
    "attention": [(r"^out_pool\.", "out.2.")],
    "spatial": [(r"^hidden_proj\.", "out.0."), (r"^out_proj\.", "out.2.")],
    "spatial_v2": [
        (r"^hidden_proj\.", "out.0."),
        (r"^hidden_norm\.", "out.1."),
        (r"^out_proj\.", "out.3."),
    ],
}
ATTENTION_PROJECTIONS = ("qkv", "proj_out", "qkv_proj", "c_proj")  # 1-D convolutions in theirs


def torch_name(name: str, pool: str | None = None) -> str:
    """Their name of our parameter `name`; `pool` is the classifier's, None for a U-Net."""
    for pattern, theirs in (POOL_RULES[pool] if pool else []) + RULES:
        name = re.sub(pattern, theirs, name)
    return name


def to_torch(name: str, array: np.ndarray, pool: str | None = None) -> np.ndarray:
    """Our parameter `name` in their layout."""
    *_, module, kind = name.split(".")
    if kind == "positional_embedding":
        return array.T
    if kind != "kernel":
        return array
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    ones = 1 if module in ATTENTION_PROJECTIONS else 0
    if module == "skip" or (name == "out_proj.kernel" and pool == "adaptive"):
        ones = 2
    return array.T.reshape(*array.shape[::-1], *(1,) * ones)


def from_torch(name: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `to_torch`: our parameter `name` from their array."""
    if name.endswith("positional_embedding"):
        return array.T
    if not name.endswith(".kernel"):
        return array
    if array.ndim == 4 and array.shape[2:] != (1, 1):
        return array.transpose(2, 3, 1, 0)
    return array.reshape(array.shape[:2]).T


def torch_shapes(
    abstract: Mapping[str, jax.ShapeDtypeStruct], pool: str | None = None
) -> dict[str, tuple[int, ...]]:
    """Their names and shapes of a network's parameters, in our order."""

    def shape(name: str, leaf: jax.ShapeDtypeStruct) -> tuple[int, ...]:
        return to_torch(name, np.broadcast_to(np.float32(0), leaf.shape), pool).shape

    return {torch_name(name, pool): shape(name, leaf) for name, leaf in abstract.items()}


def import_state_dict(
    shapes: Mapping[str, tuple[int, ...]],
    take: Callable[[str], np.ndarray],
    abstract: Mapping[str, jax.ShapeDtypeStruct],
    pool: str | None = None,
) -> dict[str, jax.Array]:
    """Our parameters, float32, from a state dict with these names and shapes.

    `take(name)` returns one of its arrays; it is called once for each, so that a caller may free
    them. Raises UserError with the first names that differ, unless names and shapes are exactly
    those of the network that `abstract` describes.
    """
    check_names_and_shapes(shapes, torch_shapes(abstract, pool))
    return {
        name: jax.device_put(
            np.ascontiguousarray(from_torch(name, take(torch_name(name, pool))), np.float32)
        )
        for name in abstract
    }


def exported(
    params: dict[str, jax.Array], pool: str | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays of a state dict that their code loads. Removes them from `params`."""
    for name in list(params):
        array = to_torch(name, np.asarray(params.pop(name)), pool)
        yield torch_name(name, pool), np.array(array, np.float32, order="C")


def export_state_dict(
    params: Mapping[str, jax.Array], pool: str | None = None
) -> dict[str, np.ndarray]:
    """A state dict that their code loads, float32 arrays in their layout."""
    return dict(exported(dict(params), pool))


def unknown_settings(model: ModelConfig) -> list[str]:
    """Settings of a network that their code does not have: with them it computes something else."""
    usual = ModelConfig()
    names = ["rescale_residual", "norm_groups", "norm_epsilon"]
    names += ["downsample_padding"] * (not model.resblock_updown and model.resample_with_conv)
    names += ["timestep_embedding"]
    names += ["first_width"] * (int(model.channel_mult[0] * model.channels) != model.channels)
    return [
        f"model.{name} {getattr(model, name)}"
        for name in names
        if getattr(model, name) != getattr(usual, name)
    ]
