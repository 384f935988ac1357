"""The U-Net of Ho et al. (2020) by settings of ours, with weights under the names of their code."""

import re
from math import prod

import jax
import numpy as np
import pytest

from ddpm_jax.config import Config, DataConfig, DiffusionConfig, ModelConfig
from ddpm_jax.models import build_network, count_parameters
from ddpm_jax.models.layers import timestep_embedding
from tests.parity.golden import load

FILE = load("ho_unet.npz")
# Modules outside the levels, and parts of the names of parameters: ours and theirs.
MODULES = {
    "time_embed.0": "temb/dense0",
    "time_embed.1": "temb/dense1",
    "input_blocks.0.0": "conv_in",
    "middle_block.0": "mid/block_1",
    "middle_block.1": "mid/attn_1",
    "middle_block.2": "mid/block_2",
    "out_norm": "norm_out",
    "out_conv": "conv_out",
}
PARTS = {"emb_proj": "temb_proj", "skip": "nin_shortcut", "kernel": "W", "bias": "b"}


def config_of_ho(**changes: object) -> Config:
    """Ours for the settings of the file, with `changes` under the names of their code."""
    theirs, channels = {**FILE.meta["config"], **changes}, FILE.array("in/x").shape[-1]
    learned = theirs["out_ch"] == 2 * channels
    return Config(
        data=DataConfig(image_size=FILE.array("in/x").shape[1], channels=channels),
        model=ModelConfig(
            channels=theirs["ch"],
            channel_mult=tuple(theirs["ch_mult"]),
            first_width="channels",
            num_res_blocks=theirs["num_res_blocks"],
            attention_resolutions=tuple(theirs["attn_resolutions"]),
            resample_with_conv=theirs["resamp_with_conv"],
            norm_epsilon=1e-6,
            downsample_padding="after",
            timestep_embedding="sin_cos",
        ),
        diffusion=DiffusionConfig(variance="learned" if learned else "fixed_large"),
    )


def their_module(name: str, model: ModelConfig) -> tuple[str, str]:
    """(their name of the module, what follows in ours) of our parameter `name`."""
    for ours, theirs in MODULES.items():
        if name.startswith(f"{ours}."):
            return theirs, name.removeprefix(f"{ours}.")
    way, i, layer, rest = re.fullmatch(r"(in|out)put_blocks\.(\d+)\.(\d)\.(.+)", name).groups()
    down = way == "in"
    level, i = divmod(int(i) - down, model.num_res_blocks + 1)
    where = f"down_{level}" if down else f"up_{len(model.channel_mult) - 1 - level}"
    if rest.startswith("conv."):
        return f"{where}/{'downsample' if down else 'upsample'}", rest
    return f"{where}/{'block' if layer == '0' else 'attn'}_{i}", rest


def their_names(name: str, model: ModelConfig) -> list[str]:
    """Their variables that our parameter `name` holds, joined along the last axis."""
    module, rest = their_module(name, model)
    if "norm" in f"{module}.{rest}":
        rest = rest.replace("scale", "gamma").replace("bias", "beta")
    rest = "/".join(PARTS.get(part, part) for part in rest.split("."))
    rests = [rest.replace("qkv", letter) for letter in "qkv"] if "qkv" in rest else [rest]
    return [f"model/{module}/{rest}" for rest in rests]


def weight(name: str, model: ModelConfig) -> np.ndarray:
    """Our parameter `name`. Their layouts are ours, but q, k and v are separate."""
    theirs = their_names(name, model)
    return np.concatenate([FILE.array(f"w/{each}") for each in theirs], axis=-1)


@pytest.fixture(scope="module")
def denoise():
    config = config_of_ho()
    network = build_network(config)
    params = {name: weight(name, config.model) for name in network.abstract}
    assert {name: p.shape for name, p in params.items()} == {
        name: leaf.shape for name, leaf in network.abstract.items()
    }
    variables = FILE.meta["variables"]
    assert sum(p.size for p in params.values()) == sum(map(prod, variables.values()))
    return jax.jit(lambda x, t: network.apply(params, x, t))


@pytest.mark.parametrize("key", FILE.keys("out/unet_"))
def test_network_of_ho_et_al_is_ours_by_settings(denoise, key):
    name, later = re.fullmatch(r"out/unet_(\w+?)(?:_tplus(\d+))?", key).groups()
    FILE.check(key, denoise(FILE.array(f"in/{name}"), FILE.array("in/t") + int(later or 0)))


@pytest.mark.parametrize("key", FILE.keys("out/temb_"))
def test_timestep_embedding_of_ho_et_al_is_sines_then_cosines(key):
    dim = int(key.removeprefix("out/temb_"))
    assert dim in FILE.meta["dims"]
    FILE.check(key, timestep_embedding(FILE.array("in/t_emb"), dim, order="sin_cos"))


def variables_of_ho(ch: int, ch_mult: tuple[int, ...], side: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the variables of their U-Net, by the structure of their code."""
    theirs, shapes = FILE.meta["config"], {}

    def dense(name: str, fan_in: int, fan_out: int, taps: tuple[int, ...] = ()) -> None:
        shapes[f"model/{name}/W"], shapes[f"model/{name}/b"] = (*taps, fan_in, fan_out), (fan_out,)

    def norm(name: str, channels: int) -> None:
        shapes[f"model/{name}/beta"] = shapes[f"model/{name}/gamma"] = (channels,)

    def block(name: str, before: int, after: int) -> None:
        norm(f"{name}/norm1", before)
        dense(f"{name}/conv1", before, after, (3, 3))
        dense(f"{name}/temb_proj", 4 * ch, after)
        norm(f"{name}/norm2", after)
        dense(f"{name}/conv2", after, after, (3, 3))
        if before != after:
            dense(f"{name}/nin_shortcut", before, after)

    def attention(name: str, channels: int) -> None:
        norm(f"{name}/norm", channels)
        for layer in ("q", "k", "v", "proj_out"):
            dense(f"{name}/{layer}", channels, channels)

    dense("temb/dense0", ch, 4 * ch)
    dense("temb/dense1", 4 * ch, 4 * ch)
    dense("conv_in", FILE.array("in/x").shape[-1], ch, (3, 3))
    width, skips = ch, [ch]
    for level, mult in enumerate(ch_mult):
        for i in range(theirs["num_res_blocks"]):
            block(f"down_{level}/block_{i}", width, ch * mult)
            width = ch * mult
            if side >> level in theirs["attn_resolutions"]:
                attention(f"down_{level}/attn_{i}", width)
            skips.append(width)
        if level < len(ch_mult) - 1:
            dense(f"down_{level}/downsample/conv", width, width, (3, 3))
            skips.append(width)
    block("mid/block_1", width, width)
    attention("mid/attn_1", width)
    block("mid/block_2", width, width)
    for level, mult in reversed(list(enumerate(ch_mult))):
        for i in range(theirs["num_res_blocks"] + 1):
            block(f"up_{level}/block_{i}", width + skips.pop(), ch * mult)
            width = ch * mult
            if side >> level in theirs["attn_resolutions"]:
                attention(f"up_{level}/attn_{i}", width)
        if level:
            dense(f"up_{level}/upsample/conv", width, width, (3, 3))
    norm("norm_out", width)
    dense("conv_out", width, theirs["out_ch"], (3, 3))
    return shapes


def test_the_structure_of_ho_et_al_has_the_variables_of_the_file():
    config, side = FILE.meta["config"], FILE.array("in/x").shape[1]
    want = {name: tuple(shape) for name, shape in FILE.meta["variables"].items()}
    assert variables_of_ho(config["ch"], config["ch_mult"], side) == want


@pytest.mark.parametrize("ch_mult", [(2, 1), (1, 2, 3), (3, 1)])
def test_names_and_shapes_are_those_of_ho_et_al_whatever_the_first_multiple(ch_mult):
    config = config_of_ho(ch_mult=ch_mult)
    theirs = variables_of_ho(config.model.channels, ch_mult, config.data.image_size)
    abstract = build_network(config).abstract
    assert count_parameters(abstract) == sum(map(prod, theirs.values()))
    for name, leaf in abstract.items():
        *rest, last = leaf.shape
        names = their_names(name, config.model)
        assert [theirs.pop(each) for each in names] == [(*rest, last // len(names))] * len(names)
    assert not theirs
