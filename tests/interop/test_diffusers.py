"""diffusers' UNet2DModel: built by the real package, it computes what our network does."""

import json
import os
import re
from pathlib import Path

import diffusers
import jax
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ddpm_jax.config import (
    Config,
    ModelConfig,
    ParallelConfig,
    build_diffusion,
    check,
    command_line,
)
from ddpm_jax.config.serialization import read_config, to_json
from ddpm_jax.errors import UserError
from ddpm_jax.interop import diffusers_scheduler, diffusers_settings, export_weights, import_weights
from ddpm_jax.interop.diffusers_settings import unet_settings
from ddpm_jax.models import build_network
from ddpm_jax.runs.checkpoints import load_ema
from ddpm_jax.runtime import devices
from tests.interop.small import SMALL, command, export_run, import_run, state_dict
from tests.slow import slow_but

COMMON = {"sample_size": 8, "norm_num_groups": 8, "layers_per_block": 1}
MODELS = {
    "its defaults": COMMON
    | {
        "block_out_channels": (16, 24),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    },
    "Ho's": COMMON  # google/ddpm-cifar10-32, scaled down
    | {
        "block_out_channels": (16, 32),
        "layers_per_block": 2,
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "attention_head_dim": None,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
        "norm_eps": 1e-6,
    },
    "ADM's": COMMON
    | {
        "in_channels": 1,
        "out_channels": 2,
        "block_out_channels": (16, 16, 32),
        # The last of each kind resamples nothing, so any type will do.
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 8,
        "num_class_embeds": 10,
        "dropout": 0.1,
    },
}


def build(settings: dict) -> diffusers.UNet2DModel:
    """A network with every parameter random, those that start at zero too."""
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(**settings).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            scale = value[0].numel() ** -0.5 if value.ndim > 1 else 0.2
            value.copy_(scale * torch.randn_like(value) + ("norm" in name and "weight" in name))
    return model


def inputs(settings: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """x [N, C, H, W], t, labels."""
    random = np.random.default_rng(0)
    side, channels = settings["sample_size"], settings.get("in_channels", 3)
    x = random.normal(size=(3, channels, side, side)).astype(np.float32)
    labels = np.array([0, 7, 9]) if settings.get("num_class_embeds") else None
    return x, np.array([0, 500, 999]), labels


def theirs(model: diffusers.UNet2DModel, settings: dict) -> np.ndarray:
    """[N, H, W, C]."""
    x, t, labels = (None if a is None else torch.from_numpy(a) for a in inputs(settings))
    with torch.no_grad():
        return model(x, t, class_labels=labels).sample.numpy().transpose(0, 2, 3, 1)


def ours(workdir: Path, settings: dict) -> np.ndarray:
    """[N, H, W, C], by the run in `workdir`."""
    config = read_config(workdir / "config.json")
    network = build_network(config)
    mesh = devices.make_mesh(ParallelConfig(data=1), 1)
    abstract = devices.replicated_abstract(network.abstract, mesh)
    params = load_ema(workdir / "checkpoints", abstract).items["ema"]
    x, t, labels = inputs(settings)
    return np.asarray(jax.jit(network.apply)(params, x.transpose(0, 2, 3, 1), t, labels))


def assert_close(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", slow_but(["its defaults", "ADM's"], MODELS))
def test_a_model_of_diffusers_computes_the_same_here_and_back_there(name, tmp_path, capsys) -> None:
    settings, (folder, run, back) = MODELS[name], (tmp_path / n for n in ("theirs", "run", "back"))
    model = build(settings)
    model.save_pretrained(folder)
    import_run(folder, run, capsys)
    expected = theirs(model, settings)
    assert np.abs(expected).max() > 0.1
    assert_close(ours(run, settings), expected)

    export_run(run, back, capsys)
    again, info = diffusers.UNet2DModel.from_pretrained(
        back, subfolder="unet", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert_close(theirs(again.eval(), settings), expected)
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


# ADM in little, and its like, as its own code would keep them.
OWN = {
    "ADM's": SMALL,  # its attention in the legacy order; the networks above are in the new one
    "Improved DDPM's": SMALL.replace("num_head_channels=32", "num_heads=1")
    .replace("resblock_updown=True", "num_heads_upsample=1")
    .replace("channel_mult=(1, 2)", "channel_mult=(1, 1.5)")
    .replace(" channels=32,", " channels=64,"),
}


@pytest.mark.parametrize("name", OWN)
def test_a_model_of_openai_goes_on_to_diffusers(name, tmp_path, capsys) -> None:
    (tmp_path / "own.py").write_text(OWN[name])
    config = command_line.load_config(tmp_path / "own.py")
    torch.save(state_dict(config), tmp_path / "own.pt")
    import_run(tmp_path / "own.pt", tmp_path / "run", capsys, str(tmp_path / "own.py"))
    export_run(tmp_path / "run", tmp_path / "back", capsys)
    model = diffusers.UNet2DModel.from_pretrained(tmp_path / "back", subfolder="unet").eval()
    settings = dict(model.config)
    assert_close(theirs(model, settings), ours(tmp_path / "run", settings))
    # In again under the config that it came from, in its order of attention.
    import_run(tmp_path / "back", tmp_path / "again", capsys, str(tmp_path / "own.py"))
    export_run(tmp_path / "again", tmp_path / "again.pt", capsys)
    first, last = torch.load(tmp_path / "own.pt"), torch.load(tmp_path / "again.pt")
    assert all(torch.equal(first[key], last[key]) for key in first)


PIPELINES = {  # sampler, variance -> the pipeline, the steps of its chain
    ("ddpm", "fixed_large"): "DDPMPipeline",
    ("ddim", "fixed_small"): "DDIMPipeline",
    ("ddim", "learned_range"): "DDPMPipeline",  # DDIM's cannot split such an output
}


@pytest.mark.parametrize(("sampler", "variance"), PIPELINES)
def test_an_exported_folder_is_a_pipeline_that_draws_images(
    sampler, variance, tmp_path, capsys
) -> None:
    text = SMALL.replace("learned_range", variance).replace("num_classes=10", "num_classes=0")
    text = text.replace("SampleConfig(", f'SampleConfig(sampler="{sampler}", ')
    (tmp_path / "own.py").write_text(text)
    config = command_line.load_config(tmp_path / "own.py")
    torch.save(state_dict(config), tmp_path / "own.pt")
    import_run(tmp_path / "own.pt", tmp_path / "run", capsys, str(tmp_path / "own.py"))
    before = os.umask(0o027)
    try:
        export_run(tmp_path / "run", tmp_path / "back", capsys)
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "back").rglob("*") if path.is_file()]
    assert len(files) == 4 and {path.stat().st_mode & 0o777 for path in files} == {0o640}

    for kind in ("DDPMPipeline", PIPELINES[sampler, variance], "DiffusionPipeline"):
        pipeline = getattr(diffusers, kind).from_pretrained(tmp_path / "back")
        pipeline.set_progress_bar_config(disable=True)
        expected = "DDPMPipeline" if kind == "DDPMPipeline" else PIPELINES[sampler, variance]
        assert type(pipeline).__name__ == expected
        images = pipeline(num_inference_steps=2, output_type="np").images
        assert images.shape == (1, 8, 8, 1) and np.isfinite(images).all() and images.std() > 0.01
    # In again, as any other pipeline.
    import_run(tmp_path / "back", tmp_path / "again", capsys)
    diffusion = read_config(tmp_path / "again" / "config.json").diffusion
    assert (diffusion.timesteps, diffusion.schedule) == (20, "cosine")
    assert diffusion.variance == (variance if expected == "DDPMPipeline" else "fixed_small")


def test_old_names_half_precision_and_pt_files_are_read(tmp_path, capsys) -> None:
    settings = MODELS["its defaults"]
    model = build(settings).bfloat16()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {
        re.sub(r"\.(to_[qkv]|to_out\.0)\.", lambda found: f".{old[found[1]]}.", name): value
        for name, value in model.state_dict().items()
    }
    assert any(".query." in name for name in weights)
    for name in ("safetensors", "bin"):
        (folder := tmp_path / name).mkdir()
        (folder / "config.json").write_text(json.dumps(dict(model.config)))
        path = folder / f"diffusion_pytorch_model.{name}"
        (save_file if name == "safetensors" else torch.save)(weights, path)
        import_run(folder, tmp_path / f"run_{name}", capsys)
    expected = theirs(model.float(), settings)
    np.testing.assert_array_equal(
        ours(tmp_path / "run_safetensors", settings), ours(tmp_path / "run_bin", settings)
    )
    assert_close(ours(tmp_path / "run_bin", settings), expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline: the U-Net by default settings, and a scheduler. To be left as it is."""
    place = tmp_path_factory.mktemp("pipeline")
    build(MODELS["its defaults"]).save_pretrained(place / "unet")
    diffusers.DDPMScheduler(
        num_train_timesteps=50, beta_end=0.3, variance_type="fixed_large"
    ).save_pretrained(place / "scheduler")
    return place


@pytest.mark.parametrize("part", ["", "unet"])
def test_the_scheduler_of_a_pipeline_is_taken_along(part, folder, tmp_path, capsys) -> None:
    import_run(folder / part, tmp_path / "run", capsys)
    config = read_config(tmp_path / "run" / "config.json")
    assert (config.diffusion.timesteps, config.diffusion.variance) == (50, "fixed_large")
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler")
    betas = build_diffusion(config.diffusion).schedule.betas
    np.testing.assert_allclose(betas, scheduler.betas, rtol=1e-6)
    # Without one, it is DDPM's; and the config file that was written says the same as the run's.
    import_run(folder / "unet", tmp_path / "other", capsys)
    assert command_line.load_config(tmp_path / "run" / "config.py") == config


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_schedules_and_predictions_survive_both_ways(
    schedule, prediction, folder, tmp_path
) -> None:
    (tmp_path / "config.json").write_text((folder / "unet" / "config.json").read_text())
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=40, beta_schedule=schedule, prediction_type=prediction
    )
    scheduler.save_pretrained(tmp_path)
    config = diffusers_settings.read_config(tmp_path)
    betas = build_diffusion(config.diffusion).schedule.betas
    np.testing.assert_allclose(betas, scheduler.betas, rtol=1e-5)
    again = diffusers.DDPMScheduler.from_config(diffusers_scheduler.scheduler_settings(config))
    np.testing.assert_allclose(again.betas, scheduler.betas, rtol=1e-6)
    assert again.config.prediction_type == prediction


WRONG_SETTINGS = [
    ({"_class_name": "UNet2DConditionModel"}, "is of a UNet2DConditionModel: only UNet2DModel can"),
    ({"time_embedding_type": "fourier"}, "time_embedding_type 'fourier' has no counterpart here, "),
    ({"time_embedding_dim": 99}, "time_embedding_dim 99 has no .*, only None or 64 has"),
    ({"freq_shift": 1}, "flip_sin_to_cos True with freq_shift 1 has no counterpart"),
    ({"center_input_sample": True}, "center_input_sample True"),
    ({"act_fn": "gelu"}, "act_fn 'gelu' has no counterpart here, only silu or swish has"),
    ({"class_embed_type": "timestep"}, "class_embed_type 'timestep'"),
    ({"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups None .* only 8 has"),
    ({"attn_norm_num_groups": 4}, "attn_norm_num_groups 4 has no .* only 8 or None has"),
    ({"mid_block_type": None}, "mid_block_type None"),
    ({"mid_block_scale_factor": 2}, "mid_block_scale_factor 2"),
    ({"add_attention": False}, "add_attention False"),
    ({"downsample_padding": 2}, "downsample_padding 2 has no counterpart here, only 1 or 0 has"),
    ({"in_channels": 4}, "in_channels 4 has no counterpart here, only 1 or 3 has"),
    ({"out_channels": 4}, "out_channels 4 has no counterpart here, only 3 or 6 has"),
    ({"sample_size": None}, "sample_size None: must be the side of a square image"),
    ({"sample_size": [8, 16]}, r"sample_size \[8, 16\]: must be the side of a square image"),
    ({"sample_size": 7}, "--data.image-size 7: must be a multiple of 2"),
    ({"attention_head_dim": 7}, "--model.num-head-channels 7: must be a divisor of the width"),
    ({"layers_per_block": [1, 2]}, "setting of another kind than expected: model.num_res_blocks"),
    ({"norm_num_groups": None}, "setting of another kind than expected: model.norm_groups is None"),
    (
        {"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]},
        "down_block_types SkipDownBlock2D has no counterpart here, only DownBlock2D, Resnet",
    ),
    ({"down_block_types": ["DownBlock2D"]}, r"down_block_types \['DownBlock2D'\]: 2 needed"),
    ({"up_block_types": ["UpBlock2D"] * 2}, "up_block_types .* attend at other levels than down_"),
    ({"upsample_type": "resnet"}, "resample by convolutions at some levels and in residual blocks"),
    ({"skip_time_act": True}, "skip_time_act True is no setting of UNet2DModel"),
]


@pytest.mark.parametrize(("settings", "pattern"), WRONG_SETTINGS, ids=str)
def test_settings_without_a_counterpart_are_named(
    settings, pattern, folder, tmp_path, capsys
) -> None:
    given = json.loads((folder / "unet" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(given | settings))
    options = [tmp_path, "--out", tmp_path / "run"]
    refused(*command(import_weights.main, options, capsys), pattern)
    assert not (tmp_path / "run").exists()


def refused(code: int, stdout: str, stderr: str, pattern: str) -> None:
    assert code == 2, stderr
    (line,) = stderr.splitlines()
    assert re.search(pattern, line), line


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"beta_schedule": "laplace"}, "beta_schedule 'laplace' has no counterpart .*scheduler_co"),
        ({"trained_betas": [0.1] * 9}, r"trained_betas \[0.1, .*give a config .* --model FILE.py"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr True has no counterpart"),
        ({"prediction_type": "flow"}, "prediction_type 'flow' has no counterpart"),
        ({"variance_type": "learned"}, "variance_type learned does not suit .* equal to its in_ch"),
        ({"num_train_timesteps": "many"}, "diffusion.timesteps is 'many', expected int"),
    ],
)
def test_schedulers_without_a_counterpart_are_named(
    settings, pattern, folder, tmp_path, capsys
) -> None:
    given = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    (tmp_path / "scheduler_config.json").write_text(json.dumps(given | settings))
    (tmp_path / "config.json").write_text((folder / "unet" / "config.json").read_text())
    options = [tmp_path, "--out", tmp_path / "run"]
    refused(*command(import_weights.main, options, capsys), pattern)


def test_wrong_folders_are_refused_in_one_line(folder, tmp_path, capsys) -> None:
    out = ["--out", tmp_path / "run"]
    (empty := tmp_path / "empty").mkdir()
    pattern = "empty is not a folder of a UNet2DModel: it has no config.json"
    refused(*command(import_weights.main, [empty, *out], capsys), pattern)
    (empty / "config.json").write_text("{")
    refused(*command(import_weights.main, [empty, *out], capsys), "config.json cannot be read: Exp")
    (empty / "config.json").write_text("[]")
    refused(*command(import_weights.main, [empty, *out], capsys), "config.json holds a list")
    given = (folder / "unet" / "config.json").read_text()
    (empty / "config.json").write_text(given)
    pattern = "empty holds neither diffusion_pytorch_model.safetensors nor diffusion_pytorch_model"
    refused(*command(import_weights.main, [empty, *out], capsys), pattern)
    path = empty / "diffusion_pytorch_model.safetensors"
    whole = (folder / "unet" / path.name).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    pattern = r"is damaged, or no safetensors file \(.*\)"
    refused(*command(import_weights.main, [empty, *out], capsys), pattern)
    path.write_bytes(whole)
    (empty / "config.json").write_text(
        given.replace('"layers_per_block": 1', '"layers_per_block": 2')
    )
    pattern = r"safetensors: the weights are of another model: \d+ missing \(.*resnets.1.*\); "
    refused(*command(import_weights.main, [empty, *out], capsys), pattern)
    (tmp_path / "other.py").write_text(SMALL)
    options = [folder, *out, "--model", tmp_path / "other.py"]
    pattern = r"unet does not fit --model .*other.py: in_channels is 3, expected 1, .*, num_class_"
    refused(*command(import_weights.main, options, capsys), pattern)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old", "new", "pattern"),
    [
        (
            "attention_resolutions=(4,),\n            num_head_channels=32",
            "attention_resolutions=(8, 4),\n            num_heads=2",
            "heads are of one width, attention_head_dim, and these are 16, 32$",
        ),
        ("channel_mult=(1, 2)", "channel_mult=(2, 2)", "take their width from the first level"),
        (
            "channel_mult=(1, 2)",
            'channel_mult=(2, 2), first_width="channels"',
            "take their width from the first level",
        ),
        ("scale_shift_norm=True", "rescale_residual=True", "residual sums are not scaled"),
        ("resblock_updown=True", "resample_with_conv=False", "it resamples by convolutions or"),
        ("channels=1)", "channels=1, low_res_size=4)", "it enlarges no image"),
        ("ModelConfig(\n", 'ModelConfig(kind="classifier",\n', "kind classifier: it is a U-Net"),
    ],
)
def test_networks_that_diffusers_cannot_express_are_refused_with_the_reason(
    old, new, pattern, tmp_path
) -> None:
    assert old in SMALL
    (tmp_path / "own.py").write_text(SMALL.replace(old, new))
    config = command_line.load_config(tmp_path / "own.py")
    check(config)
    with pytest.raises(UserError, match=pattern):
        unet_settings(config)


def test_a_network_that_diffusers_cannot_express_is_not_written(tmp_path, capsys) -> None:
    (run := tmp_path / "run").mkdir()
    config = Config(model=ModelConfig(rescale_residual=True))
    (run / "config.json").write_text(to_json(config))
    options = ["--workdir", run, "--to", tmp_path / "back"]
    pattern = "UNet2DModel has no counterpart of model.rescale_residual True"
    refused(*command(export_weights.main, options, capsys), pattern)
    assert not (tmp_path / "back").exists()
