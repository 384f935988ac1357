"""The configs that the project ships: published numbers, and data of the kind that each reads."""

import ast
import dataclasses
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ddpm_jax.config import Config, DataConfig, DiffusionConfig, check, data_shape
from ddpm_jax.config.command_line import load_config
from ddpm_jax.data import load_source, train_batches, with_classes
from ddpm_jax.interop import published
from ddpm_jax.models import build_network, count_parameters
from tests.tiny_tfds import Record, write_tfds

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs").glob("*.py"))

# Ours are pinned as they came; the others are those of the original networks.
PARAMETERS = {
    "celeba_32": 202_783_363,
    "celeba_hq_256": 113_673_219,
    "cifar10": 35_746_307,
    "cifar10_iddpm": 52_546_438,
    "cifar10_iddpm_vlb": 52_546_438,
    "digits": 705_985,
    "cifar10_classifier": 1_216_970,
    "digits_classifier": 378_186,
    "digits_unconditional": 704_705,
    "folder": 15_766_851,
    "imagenet64_adm": 295_904_454,
    "imagenet64_classifier": 65_438_568,
    "imagenet64_iddpm": 121_063_942,
    "imagenet64_iddpm_cond": 273_049_350,
    "imagenet64_iddpm_vlb": 121_063_942,
    "imagenet128_adm": 421_529_606,
    "imagenet128_classifier": 42_568_040,
    "imagenet256_adm": 553_838_086,
    "imagenet256_adm_uncond": 552_814_086,
    "imagenet256_classifier": 54_096_360,
    "imagenet512_adm": 558_997_638,
    "imagenet512_classifier": 54_448_360,
    "lsun_bedroom_256": 113_673_219,
    "lsun_bedroom_adm": 552_814_086,
    "lsun_bedroom_iddpm": 113_676_678,
    "lsun_cat_adm": 552_814_086,
    "lsun_horse_adm": 552_814_086,
    "mnist": 6_949_441,
    "s_curve": 149_250,
    "stanford_cars_64": 38_307_203,
    "upsampler_64_256_adm": 311_795_910,
    "upsampler_64_256_iddpm": 279_792_390,
    "upsampler_128_512_adm": 308_835_270,
}

# Ho et al. 2020, appendix B, and the scripts of their repository.
DDPM = {
    "model.channels": 128,
    "model.num_res_blocks": 2,
    "model.attention_resolutions": (16,),
    "model.num_heads": 1,
    "model.norm_epsilon": 1e-6,
    "model.downsample_padding": "after",
    "model.timestep_embedding": "sin_cos",
    "diffusion.timesteps": 1000,
    "diffusion.schedule": "linear",
    "diffusion.beta_start": None,  # the schedule's own are 1e-4 and 0.02
    "diffusion.beta_end": None,
    "diffusion.prediction": "eps",
    "diffusion.loss": "mse",
    "train.adam_b1": 0.9,
    "train.adam_b2": 0.999,
    "train.weight_decay": 0.0,
    "train.warmup_steps": 5000,
    "train.learning_rate_decay": "constant",
    "train.gradient_clip_norm": 1.0,
    "train.ema_decay": 0.9999,
    "sample.sampler": "ddpm",
    "sample.steps": "",
}
DDPM_256 = DDPM | {
    "model.channel_mult": (1, 1, 2, 2, 4, 4),
    "model.dropout": 0.0,
    "diffusion.variance": "fixed_small",
    "train.learning_rate": 2e-5,
    "train.batch_size": 64,
}
# What all models of OpenAI's repositories share.
OPENAI = {
    "model.norm_epsilon": 1e-5,
    "model.downsample_padding": "symmetric",
    "model.timestep_embedding": "cos_sin",
    "diffusion.beta_start": None,
    "diffusion.beta_end": None,
    "diffusion.prediction": "eps",
    "diffusion.timestep_sampler": "uniform",
    "train.adam_b1": 0.9,
    "train.adam_b2": 0.999,
    "train.warmup_steps": 0,
    "train.gradient_clip_norm": 0.0,
}
DENOISER = OPENAI | {
    "model.kind": "unet",
    "diffusion.variance": "learned_range",
    "diffusion.loss": "mse",
    "diffusion.rescale_timesteps": False,
    "train.learning_rate_decay": "constant",
    "train.weight_decay": 0.0,
    "train.ema_decay": 0.9999,
    "train.ema_warmup": False,
    "sample.sampler": "ddpm",
}
# The README of openai/improved-diffusion, and the defaults of its scripts.
IDDPM = DENOISER | {
    "model.channels": 128,
    "model.num_res_blocks": 3,
    "model.attention_resolutions": (16, 8),
    "model.num_heads": 4,
    "model.num_head_channels": 0,
    "model.scale_shift_norm": True,
    "model.resblock_updown": False,
    "model.attention_order": "legacy",
    "diffusion.timesteps": 4000,
    "diffusion.schedule": "cosine",
    "train.learning_rate": 1e-4,
    "train.batch_size": 128,
    "data.flip": False,
    "data.random_crop": False,
}
HYBRID = {"diffusion.loss": "rescaled_mse", "diffusion.rescale_timesteps": True, "sample.steps": ""}
VLB = HYBRID | {
    "diffusion.loss": "rescaled_kl",
    "diffusion.timestep_sampler": "loss_second_moment",
}
IDDPM_CIFAR10 = IDDPM | {
    "model.channel_mult": (1, 2, 2, 2),
    "model.dropout": 0.3,
    "model.num_classes": 0,
    "train.steps": 500_000,
}
IDDPM_64 = IDDPM | {
    "model.channel_mult": (1, 2, 3, 4),
    "model.dropout": 0.0,
    "model.num_classes": 0,
    "train.steps": 1_500_000,
}
# Dhariwal & Nichol 2021, tables 11 to 14, and the README of openai/guided-diffusion.
ADM = DENOISER | {
    "model.channels": 256,
    "model.num_res_blocks": 2,
    "model.attention_resolutions": (32, 16, 8),
    "model.num_head_channels": 64,
    "model.num_classes": 1000,
    "model.dropout": 0.0,
    "model.scale_shift_norm": True,
    "model.resblock_updown": True,
    "model.attention_order": "legacy",
    "diffusion.timesteps": 1000,
    "diffusion.schedule": "linear",
    "train.learning_rate": 1e-4,
    "train.batch_size": 256,
    "data.flip": True,
    "data.random_crop": False,
    "data.low_res_size": 0,
    "sample.steps": "250",
}
ADM_256 = ADM | {"model.channel_mult": (1, 1, 2, 2, 4, 4), "train.steps": 1_980_000}
LSUN = ADM_256 | {"model.num_classes": 0, "model.dropout": 0.1, "sample.steps": ""}
UPSAMPLER = ADM_256 | {"model.channels": 192, "train.steps": 500_000}
CLASSIFIER = OPENAI | {
    "model.kind": "classifier",
    "model.pool": "attention",
    "model.channels": 128,
    "model.num_res_blocks": 2,
    "model.attention_resolutions": (32, 16, 8),
    "model.num_head_channels": 64,
    "model.num_classes": 1000,
    "model.dropout": 0.0,
    "model.scale_shift_norm": True,
    "model.resblock_updown": True,
    "diffusion.timesteps": 1000,
    "diffusion.schedule": "linear",
    "train.learning_rate": 3e-4,
    "train.learning_rate_decay": "linear",
    "train.weight_decay": 0.05,
    "train.batch_size": 256,
    "train.ema_decay": 0.0,
    "data.flip": True,
    "data.random_crop": True,
}
PUBLISHED = {
    "cifar10": DDPM
    | {
        "model.channel_mult": (1, 2, 2, 2),
        "model.dropout": 0.1,
        "diffusion.variance": "fixed_large",
        "train.learning_rate": 2e-4,
        "train.batch_size": 128,
        "train.steps": 800_000,
        "data.flip": True,
    },
    "celeba_hq_256": DDPM_256 | {"train.steps": 500_000, "data.flip": True},
    "lsun_bedroom_256": DDPM_256 | {"train.steps": 2_400_000, "data.flip": False},
    "cifar10_iddpm": IDDPM_CIFAR10 | HYBRID,
    "cifar10_iddpm_vlb": IDDPM_CIFAR10 | VLB,
    "imagenet64_iddpm": IDDPM_64 | HYBRID,
    "imagenet64_iddpm_vlb": IDDPM_64 | VLB,
    "imagenet64_iddpm_cond": IDDPM_64
    | {
        "model.channels": 192,
        "model.num_classes": 1000,
        "train.learning_rate": 3e-4,
        "train.batch_size": 2048,
        "train.steps": 250_000,
        "sample.steps": "250",
    },
    "upsampler_64_256_iddpm": IDDPM
    | {
        "model.channels": 192,
        "model.channel_mult": (1, 1, 2, 2, 4, 4),
        "model.num_res_blocks": 2,
        "model.num_classes": 1000,
        "diffusion.schedule": "linear",
        "train.learning_rate": 3e-4,
        "train.batch_size": 256,
        "train.steps": 500_000,
        "data.image_size": 256,
        "data.low_res_size": 64,
    },
    "lsun_bedroom_iddpm": IDDPM
    | {
        "model.channel_mult": (1, 1, 2, 2, 4, 4),
        "model.num_res_blocks": 2,
        "model.attention_resolutions": (16,),
        "model.num_heads": 1,
        "model.num_classes": 0,
        "model.scale_shift_norm": False,
        "diffusion.timesteps": 1000,
        "diffusion.schedule": "linear",
        "train.steps": 1_200_000,
    },
    "imagenet64_adm": ADM
    | {
        "model.channels": 192,
        "model.channel_mult": (1, 2, 3, 4),
        "model.num_res_blocks": 3,
        "model.dropout": 0.1,
        "model.attention_order": "new",
        "diffusion.schedule": "cosine",
        "train.learning_rate": 3e-4,
        "train.batch_size": 2048,
        "train.steps": 540_000,
    },
    "imagenet128_adm": ADM
    | {
        "model.channel_mult": (1, 1, 2, 3, 4),
        "model.num_heads": 4,
        "model.num_head_channels": 0,
        "train.steps": 4_360_000,
    },
    "imagenet256_adm": ADM_256,
    "imagenet256_adm_uncond": ADM_256 | {"model.num_classes": 0},
    "imagenet512_adm": ADM
    | {"model.channel_mult": (0.5, 1, 1, 2, 2, 4, 4), "train.steps": 1_940_000},
    "lsun_bedroom_adm": LSUN | {"train.steps": 500_000},
    "lsun_cat_adm": LSUN | {"train.steps": 200_000},
    "lsun_horse_adm": LSUN | {"train.steps": 250_000},
    "upsampler_64_256_adm": UPSAMPLER
    | {
        "model.num_heads": 4,
        "model.num_head_channels": 0,
        "data.image_size": 256,
        "data.low_res_size": 64,
    },
    "upsampler_128_512_adm": UPSAMPLER
    | {
        "model.attention_resolutions": (32, 16),  # table 13 adds 8, which no level of it is
        "train.steps": 1_050_000,
        "data.image_size": 512,
        "data.low_res_size": 128,
    },
    "imagenet64_classifier": CLASSIFIER
    | {
        "model.channel_mult": (1, 2, 3, 4),
        "model.num_res_blocks": 4,
        "diffusion.schedule": "cosine",
        "train.learning_rate": 6e-4,
        "train.weight_decay": 0.2,
        "train.batch_size": 1024,
        "train.steps": 300_000,
    },
    "imagenet128_classifier": CLASSIFIER
    | {"model.channel_mult": (1, 1, 2, 3, 4), "train.steps": 300_000},
    "imagenet256_classifier": CLASSIFIER
    | {"model.channel_mult": (1, 1, 2, 2, 4, 4), "train.steps": 500_000},
    "imagenet512_classifier": CLASSIFIER
    | {"model.channel_mult": (0.5, 1, 1, 2, 2, 4, 4), "train.steps": 500_000},
}

# Published results of each model, of a classifier those that it guides to.
RESULTS = {
    "cifar10": ["FID 3.17", "IS 9.46", "3.75 bits"],
    "cifar10_iddpm": ["FID 3.19", "3.17 bits"],
    "cifar10_iddpm_vlb": ["FID 11.47", "2.94 bits"],
    "imagenet64_adm": ["FID 2.07, sFID 4.29, precision 0.74, recall 0.63"],
    "imagenet64_iddpm": ["FID 19.2", "3.57 bits"],
    "imagenet64_iddpm_cond": ["FID 2.92, sFID 3.79, precision 0.74, recall 0.62"],
    "imagenet64_iddpm_vlb": ["FID 40.1", "3.53 bits"],
    "imagenet128_adm": [
        "FID 5.91, sFID 5.09, precision 0.70, recall 0.65",
        "scale 0.5: FID 2.97, sFID 5.09, precision 0.78, recall 0.59",
    ],
    "imagenet128_classifier": ["FID 2.97, sFID 5.09, precision 0.78, recall 0.59 at scale 0.5"],
    "imagenet256_adm": [
        "FID 10.94, sFID 6.02, IS 100.98, precision 0.69, recall 0.63",
        "scale 1.0: FID 4.59, sFID 5.25, IS 186.7, precision 0.82, recall 0.52",
    ],
    "imagenet256_adm_uncond": ["FID 26.21, sFID 6.35, IS 39.7, precision 0.61, recall 0.63"],
    "imagenet256_classifier": [
        "FID 4.59, sFID 5.25, IS 186.7, precision 0.82, recall 0.52 at scale 1.0"
    ],
    "imagenet512_adm": [
        "FID 23.24, sFID 10.19, IS 58.06, precision 0.73, recall 0.60",
        "scale 4.0: FID 7.72, sFID 6.57, IS 172.71, precision 0.87, recall 0.42",
    ],
    "imagenet512_classifier": [
        "FID 7.72, sFID 6.57, IS 172.71, precision 0.87, recall 0.42 at scale 4.0"
    ],
    "lsun_bedroom_256": ["FID is 6.36"],
    "lsun_bedroom_adm": ["FID 1.90, sFID 5.59, precision 0.66, recall 0.51"],
    "lsun_cat_adm": ["FID 5.57, sFID 6.69, precision 0.63, recall 0.52"],
    "lsun_horse_adm": ["FID 2.57, sFID 6.81, precision 0.71, recall 0.55"],
    "upsampler_64_256_adm": [
        "FID 7.49, sFID 5.13, IS 127.49, precision 0.72, recall 0.63",
        "FID 3.94, sFID 6.14, IS 215.84, precision 0.83, recall 0.53",
    ],
    "upsampler_64_256_iddpm": ["FID 12.26, sFID 5.42, precision 0.70, recall 0.62"],
    "upsampler_128_512_adm": [
        "FID 9.96, sFID 5.62, IS 121.78, precision 0.75, recall 0.64",
        "FID 3.85, sFID 5.86, IS 221.7, precision 0.84, recall 0.53",
    ],
}


def config_of(name: str) -> Config:
    return load_config(ROOT / "configs" / f"{name}.py")


def docstring(name: str) -> str:
    return ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text()))


@cache
def parameter_count(network: Config) -> int:
    return count_parameters(build_network(network).abstract)


def test_every_config_is_in_the_table_of_parameters() -> None:
    assert {file.stem for file in FILES} == PARAMETERS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_network_has_the_published_number_of_parameters(name: str) -> None:
    config = config_of(name)
    # Without what the parameters do not depend on, for several models are of one network.
    data = dataclasses.replace(DataConfig(), image_size=config.data.image_size)
    if config.model.kind == "mlp":
        data = config.data
    data = dataclasses.replace(
        data, channels=config.data.channels, low_res_size=config.data.low_res_size
    )
    classes = max(config.model.num_classes, 0)  # -1: as many as the data set has
    model = dataclasses.replace(config.model, num_classes=classes, dropout=0.0, dtype="float32")
    diffusion = DiffusionConfig(variance=config.diffusion.variance)
    assert parameter_count(Config(data, model, diffusion)) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_docstring_states_the_command_and_the_right_count(name: str) -> None:
    doc = docstring(name)
    option = "" if name == "digits" else f" --config configs/{name}.py"
    assert re.search(rf"^    python train\.py{re.escape(option)}(?= --|\n|$)", doc, re.MULTILINE)
    counts = re.findall(r"([\d,]{6,}) parameters", doc)
    assert counts or name not in PUBLISHED
    for count in counts:
        assert int(count.replace(",", "")) == PARAMETERS[name]


@pytest.mark.parametrize("name", RESULTS)
def test_the_docstring_states_the_published_results(name: str) -> None:
    words = " ".join(docstring(name).split())
    for result in RESULTS[name]:
        assert result in words


@pytest.mark.parametrize("model", published.MODELS)
def test_the_docstring_states_how_published_weights_come_in(model: str) -> None:
    name, file = published.MODELS[model][:2]
    words = docstring(name).replace("\\\n", " ").split()
    command = f"ddpm_jax.interop.import_weights {file} --model {model} --out runs/{name}"
    assert f" {command} " in f" {' '.join(words)} "
    assert name in PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_settings_are_the_published_ones(name: str) -> None:
    settings = dataclasses.asdict(config_of(name))
    for field, value in PUBLISHED[name].items():
        section, _, key = field.partition(".")
        assert settings[section][key] == value, field


def test_the_schedule_of_the_published_configs_runs_from_1e_4_to_0_02() -> None:
    from ddpm_jax.config import build_diffusion

    betas = build_diffusion(config_of("cifar10").diffusion).schedule.betas
    np.testing.assert_allclose(betas[[0, -1]], [1e-4, 0.02], rtol=1e-12)


def test_tfds_numbers_the_classes_of_imagenet_as_openai_does() -> None:
    names = tfds.core.tfds_path("datasets/imagenet2012/labels.txt").read_text().split()
    assert len(names) == 1000 and names == sorted(set(names))  # by WordNet id


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, channels), np.uint8)


def image(*shape: int | None) -> tfds.features.Image:
    return tfds.features.Image(shape=shape)


# The features that TFDS gives each set, with two records of it.
TFDS_SETS: dict[str, tuple[Record, list[Record]]] = {
    "mnist": (
        {"image": image(28, 28, 1), "label": tfds.features.ClassLabel(num_classes=10)},
        [{"image": picture(28, 28, 1), "label": label} for label in (3, 9)],
    ),
    "cifar10": (
        {
            "id": tfds.features.Text(),
            "image": image(32, 32, 3),
            "label": tfds.features.ClassLabel(num_classes=10),
        },
        [{"id": b"train_1", "image": picture(32, 32), "label": label} for label in (0, 9)],
    ),
    "celeb_a_hq/256": (
        {"image": image(256, 256, 3), "image/filename": tfds.features.Text()},
        [{"image": picture(256, 256), "image/filename": b"1.png"}] * 2,
    ),
    **dict.fromkeys(
        ("lsun/bedroom", "lsun/cat", "lsun/horse"),
        (
            {"id": tfds.features.Text(), "image": image(None, None, 3)},
            [{"id": b"f0", "image": picture(341, 256)}, {"id": b"f1", "image": picture(256, 400)}],
        ),
    ),
    "imagenet2012": (
        {
            "file_name": tfds.features.Text(),
            "image": image(None, None, 3),
            "label": tfds.features.ClassLabel(num_classes=1000),
        },
        [
            {"file_name": b"n01440764_1.JPEG", "image": picture(*size), "label": label}
            for size, label in (((375, 500), 0), ((90, 60), 999))
        ],
    ),
    "downsampled_imagenet/64x64": (
        {"image": image(None, None, 3)},
        [{"image": picture(64, 64)}] * 2,
    ),
    "cars196": (
        {
            "bbox": tfds.features.BBoxFeature(),
            "id": tfds.features.Text(),
            "image": image(None, None, 3),
            "label": tfds.features.ClassLabel(num_classes=196),
        },
        [
            {"bbox": [0.1, 0.2, 0.8, 0.9], "id": b"1.jpg", "image": picture(*size), "label": 195}
            for size in ((90, 130), (50, 40))
        ],
    ),
    "celeb_a": (
        {
            "attributes": {"Bald": np.bool_, "Smiling": np.bool_},
            "image": image(218, 178, 3),
            "landmarks": {"lefteye_x": np.int64, "lefteye_y": np.int64},
        },
        [
            {
                "attributes": {"Bald": 0, "Smiling": 1},
                "image": picture(218, 178),
                "landmarks": {"lefteye_x": 69, "lefteye_y": 111},
            }
        ]
        * 2,
    ),
}


def readers() -> dict[DataConfig, list[str]]:
    """The configs that read each kind of images."""
    names = defaultdict(list)
    for name in PARAMETERS:
        config = config_of(name)
        if config.data.name != "s_curve":
            names[config.data].append(name)
    return names


READERS = readers()


@pytest.mark.parametrize("data", READERS, ids=lambda data: READERS[data][0])
def test_records_of_the_data_set_become_batches_of_the_config_shape(
    data: DataConfig, tmp_path: Path
) -> None:
    names = READERS[data]
    if data.name.startswith("tfds:"):
        spec = data.name.removeprefix("tfds:")
        features, records = TFDS_SETS[spec]
        write_tfds(tmp_path, spec, features, dict.fromkeys(data.split.split("+"), records))
    elif data.name.startswith("folder:"):
        for label in ("cat", "dog"):
            (tmp_path / label).mkdir()
            Image.fromarray(picture(90, 130)).save(tmp_path / label / "1.jpg")
        data = dataclasses.replace(data, name=f"folder:{tmp_path}")
    source = load_source(dataclasses.replace(data, dir=str(tmp_path)))
    with train_batches(source, data, batch_size=4, seed=0) as batches:
        batch = next(batches)
    assert batch["x"].dtype == np.uint8 and batch["x"].std() > 5
    labels = batch["label"]
    assert ((labels >= 0) == (source.num_classes > 0)).all()
    assert (labels < max(source.num_classes, 1)).all()
    for name in names:
        config = config_of(name)
        check(config)
        with_classes(config, source)  # raises if they contradict
        assert batch["x"].shape == (4, *data_shape(config))


def test_a_batch_of_the_points_is_float32_pairs() -> None:
    config = config_of("s_curve")
    with train_batches(load_source(config.data), config.data, batch_size=4, seed=0) as batches:
        x = next(batches)["x"]
    assert x.shape == (4, *data_shape(config)) == (4, 2) and x.dtype == np.float32


def test_no_config_imports_more_than_its_settings() -> None:
    for file in FILES:
        modules = {
            node.module
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.ImportFrom)
        }
        assert modules == {"ddpm_jax.config"}, file
