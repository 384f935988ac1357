"""The U-Net of Ho et al. (2020) by settings of ours, with weights under the names of their code."""

import re
from math import prod

import jax
import numpy as np
import pytest

from ddpm_jax.config import Config, DataConfig, DiffusionConfig, ModelConfig
from ddpm_jax.models import build_network
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


def config_of_ho() -> Config:
    theirs, channels = FILE.meta["config"], FILE.array("in/x").shape[-1]
    learned = theirs["out_ch"] == 2 * channels
    return Config(
        data=DataConfig(image_size=FILE.array("in/x").shape[1], channels=channels),
        model=ModelConfig(
            channels=theirs["ch"],
            channel_mult=tuple(theirs["ch_mult"]),
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


def weight(name: str, model: ModelConfig) -> np.ndarray:
    """Our parameter `name`; their layouts are ours, but q, k and v are apart."""
    module, rest = their_module(name, model)
    if "norm" in f"{module}.{rest}":
        rest = rest.replace("scale", "gamma").replace("bias", "beta")
    rest = "/".join(PARTS.get(part, part) for part in rest.split("."))
    parts = [rest.replace("qkv", part) for part in "qkv"] if "qkv" in rest else [rest]
    return np.concatenate([FILE.array(f"w/model/{module}/{part}") for part in parts], axis=-1)


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
