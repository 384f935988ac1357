"""Settings of diffusers' UNet2DModel as ours, and ours as theirs.

A setting that the other side lacks is an error that names it.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any, Literal

from ddpm_jax.config import (
    Config,
    DataConfig,
    ModelConfig,
    TrainConfig,
    check,
    serialization,
)
from ddpm_jax.errors import UserError
from ddpm_jax.interop.diffusers_scheduler import only, read_json, read_scheduler

# The values of UNet2DModel for settings that its config.json omits.
DEFAULTS = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
BLOCKS = {  # (direction, whether it attends, whether it resamples in a residual block) -> name
    ("down", False, False): "DownBlock2D",
    ("down", False, True): "ResnetDownsampleBlock2D",
    ("down", True, None): "AttnDownBlock2D",
    ("up", False, False): "UpBlock2D",
    ("up", False, True): "ResnetUpsampleBlock2D",
    ("up", True, None): "AttnUpBlock2D",
}
EMBEDDINGS: dict[tuple[bool, int], Literal["cos_sin", "sin_cos"]] = {
    (True, 0): "cos_sin",  # (flip_sin_to_cos, freq_shift)
    (False, 1): "sin_cos",
}
PADDINGS: dict[int, Literal["symmetric", "after"]] = {1: "symmetric", 0: "after"}


def read_config(folder: Path) -> Config:
    """Our config of the UNet2DModel in `folder`, and of the scheduler beside it, if there is one.

    Raises UserError for a folder that holds none, and for a setting that our U-Net does not have.
    """
    path = folder / "config.json"
    given = read_json(path, "a folder of a UNet2DModel")
    if (kind := given.get("_class_name", "UNet2DModel")) != "UNet2DModel":
        raise UserError(f"{path} is of a {kind}: only UNet2DModel can be imported")
    given = {name: value for name, value in given.items() if not name.startswith("_")}
    if unknown := [n for n, value in given.items() if n not in DEFAULTS and value is not None]:
        raise UserError(f"{path}: {unknown[0]} {given[unknown[0]]!r} is no setting of UNet2DModel")
    try:
        data, model, learned = _network(DEFAULTS | given)
        diffusion, sample = read_scheduler(folder, learned)
        config = Config(data, model, diffusion, TrainConfig(), sample)
        config = serialization.from_dict(Config, dataclasses.asdict(config))  # checks every type
        check(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path} has a setting of another kind than expected: {error}") from error
    return config


def _network(s: dict[str, Any]) -> tuple[DataConfig, ModelConfig, bool]:
    """Data, model, and whether a variance is learned, by the settings `s` of a UNet2DModel."""
    widths = [int(width) for width in s["block_out_channels"]]
    _check_supported(s, widths[0])
    side = s["sample_size"]
    side = side[0] if isinstance(side, list) and len(set(side)) == 1 else side
    if not isinstance(side, int):
        raise UserError(f"sample_size {side}: must be the side of a square image, in pixels")
    attends, in_resnets = _levels(s, len(widths))
    model = ModelConfig(
        channels=widths[0],
        channel_mult=tuple(_ratio(width, widths[0]) for width in widths),
        num_res_blocks=s["layers_per_block"],
        attention_resolutions=tuple(side >> level for level, it in enumerate(attends) if it),
        num_head_channels=s["attention_head_dim"] or 0,
        num_classes=s["num_class_embeds"] or 0,
        dropout=s["dropout"],
        scale_shift_norm=s["resnet_time_scale_shift"] == "scale_shift",
        resblock_updown=in_resnets,
        attention_order="new",
        norm_groups=s["norm_num_groups"],
        norm_epsilon=s["norm_eps"],
        downsample_padding=PADDINGS[s["downsample_padding"]],
        timestep_embedding=EMBEDDINGS[s["flip_sin_to_cos"], s["freq_shift"]],
    )
    data = DataConfig("folder:images", image_size=side, channels=s["in_channels"])
    return data, model, s["out_channels"] == 2 * s["in_channels"]


def _check_supported(s: dict[str, Any], first_width: int) -> None:
    """Raises UserError for the first setting that has no counterpart here."""
    groups, shift = s["norm_num_groups"], s["resnet_time_scale_shift"]
    only(s, "time_embedding_type", "positional")
    only(s, "time_embedding_dim", None, 4 * first_width)
    only(s, "center_input_sample", False)
    only(s, "act_fn", "silu", "swish")
    only(s, "class_embed_type", None)
    only(s, "resnet_time_scale_shift", "default", "scale_shift")
    only(s, "mid_block_type", "UNetMidBlock2D")
    only(s, "mid_block_scale_factor", 1)
    only(s, "add_attention", True)
    # Without it, the attention of the middle has a norm with "default" alone.
    only(s, "attn_norm_num_groups", groups, *[None] * (shift == "default"))
    only(s, "downsample_padding", *PADDINGS)
    only(s, "in_channels", 1, 3)
    only(s, "out_channels", s["in_channels"], 2 * s["in_channels"])
    if (embedding := (s["flip_sin_to_cos"], s["freq_shift"])) not in EMBEDDINGS:
        raise UserError(
            f"flip_sin_to_cos {embedding[0]} with freq_shift {embedding[1]} has no counterpart "
            "here: only True with 0 and False with 1 have"
        )


def _ratio(width: int, first: int) -> float:
    """The multiplier that makes `width` of `first`, despite rounding; whole where it can be."""
    if width % first == 0:
        return width // first
    ratio = width / first
    return ratio if int(ratio * first) == width else ratio * (1 + 1e-12)


def _levels(s: dict[str, Any], levels: int) -> tuple[list[bool], bool]:
    """Which levels attend, and whether images are resampled in residual blocks."""
    attends: dict[str, list[bool]] = {}
    in_resnets = set()
    for direction in ("down", "up"):
        names = [name.removeprefix("UNetRes") for name in s[f"{direction}_block_types"]]
        if len(names) != levels:
            raise UserError(
                f"{direction}_block_types {names}: {levels} needed, as many as block_out_channels"
            )
        kinds = {name: kind[1:] for kind, name in BLOCKS.items() if kind[0] == direction}
        if unknown := [name for name in names if name not in kinds]:
            raise UserError(
                f"{direction}_block_types {unknown[0]} has no counterpart here, only "
                f"{', '.join(kinds)} have"
            )
        only(s, f"{direction}sample_type", "conv", "resnet", None)
        attends[direction] = [kinds[name][0] for name in names]
        for name in names[:-1]:  # the last one does not resample
            inside = kinds[name][1]
            in_resnets.add(s[f"{direction}sample_type"] == "resnet" if inside is None else inside)
    if attends["down"] != attends["up"][::-1]:
        raise UserError(
            f"up_block_types {s['up_block_types']} attend at other levels than down_block_types"
        )
    if len(in_resnets) > 1:
        raise UserError(
            "downsample_type, upsample_type and the types of the blocks resample by convolutions "
            "at some levels and in residual blocks at others: here it is one for all"
        )
    return attends["down"], in_resnets == {True}


def unet_settings(config: Config) -> dict[str, Any]:
    """The config.json of a UNet2DModel that computes what the network of `config` does.

    Raises UserError, saying why, where none does.
    """
    data, model = config.data, config.model
    widths = [int(mult * model.channels) for mult in model.channel_mult]
    no_counterpart = [
        (model.kind != "unet", f"model.kind {model.kind}", "it is a U-Net"),
        (data.low_res_size, f"data.low_res_size {data.low_res_size}", "it enlarges no image"),
        (model.rescale_residual, "model.rescale_residual True", "its residual sums are not scaled"),
        (
            widths[0] != model.channels,
            f"model.channel_mult {model.channel_mult}",
            "its embeddings take their width from the first level, so the first must be 1",
        ),
        (
            len(widths) > 1 and not (model.resblock_updown or model.resample_with_conv),
            "model.resample_with_conv False",
            "it resamples by convolutions or in residual blocks",
        ),
    ]
    for found, setting, reason in no_counterpart:
        if found:
            raise UserError(f"UNet2DModel has no counterpart of {setting}: {reason}")
    sides = [data.image_size >> level for level in range(len(widths))]
    attends = [side in model.attention_resolutions for side in sides]
    resample = "resnet" if model.resblock_updown else "conv"
    blocks = {
        direction: [BLOCKS[direction, it, None if it else model.resblock_updown] for it in attends]
        for direction in ("down", "up")
    }
    learned = config.diffusion.variance.startswith("learned")
    return DEFAULTS | {
        "_class_name": "UNet2DModel",
        "sample_size": data.image_size,
        "in_channels": data.channels,
        "out_channels": data.channels * (2 if learned else 1),
        "freq_shift": 0 if model.timestep_embedding == "cos_sin" else 1,
        "flip_sin_to_cos": model.timestep_embedding == "cos_sin",
        "down_block_types": blocks["down"],
        "up_block_types": blocks["up"][::-1],
        "block_out_channels": widths,
        "layers_per_block": model.num_res_blocks,
        "downsample_padding": 1 if model.downsample_padding == "symmetric" else 0,
        "downsample_type": resample,
        "upsample_type": resample,
        "dropout": model.dropout,
        "attention_head_dim": _head_dim(model, widths, attends),
        "norm_num_groups": model.norm_groups,
        "attn_norm_num_groups": model.norm_groups,
        "norm_eps": model.norm_epsilon,
        "resnet_time_scale_shift": "scale_shift" if model.scale_shift_norm else "default",
        "num_class_embeds": model.num_classes or None,
    }


def _head_dim(model: ModelConfig, widths: list[int], attends: list[bool]) -> int | None:
    """Channels of each attention head, the same everywhere; None for one head everywhere."""
    if model.num_head_channels:
        return model.num_head_channels
    up = model.num_heads_upsample or model.num_heads
    attending = list(itertools.compress(widths, attends))
    heads = {(width, model.num_heads) for width in (*attending, widths[-1])}
    heads |= {(width, up) for width in attending}
    if all(count == 1 for _, count in heads):
        return None
    dims = sorted({width // count for width, count in heads})
    if len(dims) > 1:
        raise UserError(
            f"UNet2DModel has no counterpart of model.num_heads {model.num_heads} here: its heads "
            f"are of one width, attention_head_dim, and these are {', '.join(map(str, dims))}"
        )
    return dims[0]
