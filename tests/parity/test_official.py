"""Our configs of the published models, against the flags and the names and shapes of their weights.

Each file of the folder `official` describes one model of OpenAI's: its flags and arguments as the
original code parsed them, its diffusion, the heads of every attention, its state dict.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from flax import nnx

from ddpm_jax.config import Config, check
from ddpm_jax.config.command_line import load_config
from ddpm_jax.interop import openai, published
from ddpm_jax.models import Network, build_network, count_parameters, initializers
from ddpm_jax.models import network as network_module
from tests.parity.golden import FOLDER, load_json

FILES = sorted(path.name for path in (FOLDER / "official").glob("*.json"))


@cache
def our_configs() -> dict[str, Config]:
    """Those of published models, by the name of the file of their weights."""
    return {
        Path(each.file).stem: load_config(published.config_path(name))
        for name, each in published.MODELS.items()
    }


def settings_of(official: dict[str, Any]) -> dict[str, Any]:
    """What our config must say, by the original's arguments."""
    args, shapes = official["args"], official["state_dict"]
    classifier = official["kind"] == "classifier"
    side = args.get("large_size") or args["image_size"]
    levels = [side // 2**level for level in range(len(official["channel_mult"]))]
    prefix = "classifier_" if classifier else ""
    settings = {
        "data.image_size": side,
        "data.low_res_size": args.get("small_size", 0),
        "model.kind": "classifier" if classifier else "unet",
        "model.channels": args["classifier_width" if classifier else "num_channels"],
        "model.channel_mult": tuple(official["channel_mult"]),
        "model.num_res_blocks": args["classifier_depth" if classifier else "num_res_blocks"],
        "model.attention_resolutions": {side // ds for ds in official["attention_ds"]} & {*levels},
        "model.scale_shift_norm": args[f"{prefix}use_scale_shift_norm"],
        "model.resblock_updown": args.get(f"{prefix}resblock_updown", False),
        "model.dropout": args.get("dropout", 0.0),
        "model.attention_order": "new" if args.get("use_new_attention_order") else "legacy",
        "model.num_classes": shapes.get("label_emb.weight", [0])[0],
    }
    if classifier:
        settings["model.pool"] = args["classifier_pool"]
        settings["model.num_classes"] = list(shapes.values())[-1][0]  # the last bias
    elif diffusion := official["diffusion"]:
        settings |= {
            "diffusion.timesteps": diffusion["num_timesteps"],
            "diffusion.schedule": args["noise_schedule"],
            "diffusion.prediction": {"EPSILON": "eps", "START_X": "x_start"}[diffusion["mean"]],
            "diffusion.variance": diffusion["var"].lower(),
            "diffusion.loss": diffusion["loss"].lower(),
            "diffusion.rescale_timesteps": diffusion["rescale_timesteps"],
        }
    return settings


def differences(config: Config, settings: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """(ours, theirs) of the settings that differ."""
    ours = {
        f"{section}.{name}": value
        for section, fields in dataclasses.asdict(config).items()
        for name, value in fields.items()
    }
    ours["model.attention_resolutions"] = {*ours["model.attention_resolutions"]}
    return {name: (ours[name], want) for name, want in settings.items() if ours[name] != want}


def config_of(official: dict[str, Any]) -> Config:
    """Ours of that model: by name, or else the one of settings the most alike."""
    configs = our_configs()
    if official["name"] in configs:
        return configs[official["name"]]
    settings = settings_of(official)
    return min(configs.values(), key=lambda config: len(differences(config, settings)))


def pool_of(config: Config) -> str | None:
    return config.model.pool if config.model.kind == "classifier" else None


@pytest.fixture(params=FILES)
def official(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load_json(f"official/{request.param}")


def test_there_are_descriptions_of_published_models() -> None:
    assert FILES


def test_config_has_the_published_settings(official: dict[str, Any]) -> None:
    config = config_of(official)
    check(config)
    assert not differences(config, settings_of(official))


def test_names_and_shapes_are_those_of_the_state_dict(official: dict[str, Any]) -> None:
    config = config_of(official)
    abstract = build_network(config).abstract
    ours = openai.torch_shapes(abstract, pool_of(config))
    theirs = {name: tuple(shape) for name, shape in official["state_dict"].items()}
    assert theirs.keys() - ours.keys() == set(), "missing"
    assert ours.keys() - theirs.keys() == set(), "left over"
    assert ours == theirs
    assert len(ours) == len(abstract) == official["n_tensors"]  # no two of ours share a name
    assert count_parameters(abstract) == official["param_count"]


def test_every_attention_has_the_published_heads(
    official: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(official)
    modules = []  # that build_network makes functions of, their arrays abstract

    def functional(build: Callable[[initializers.Stream], nnx.Module]) -> Network:
        modules.append(nnx.eval_shape(lambda: build(initializers.Stream())))
        return Network(init=None, apply=None, abstract={})

    monkeypatch.setattr(network_module, "functional", functional)
    build_network(config)
    heads = {}
    for path, module in nnx.iter_modules(modules[0]):
        if hasattr(module, "heads"):
            name = ".".join(map(str, path))
            heads[openai.torch_name(f"{name}.", pool_of(config)).rstrip(".")] = module.heads
    assert heads == official["attention_heads"]
