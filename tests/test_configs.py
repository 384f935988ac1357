"""The configs that the project ships: published numbers, and data of the kind that each reads."""

import ast
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ddpm_jax.cli import load_config
from ddpm_jax.config import Config, check, data_shape
from ddpm_jax.data import load_source, train_batches
from ddpm_jax.models import build_network, count_parameters
from ddpm_jax.training.run import check_labels
from tests.tiny_tfds import Record, write_tfds

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "configs").glob("*.py"))

# The first two numbers are those of Ho et al.'s networks; the others are pinned as they came.
PARAMETERS = {
    "cifar10": 35_746_307,
    "celeba_hq_256": 113_673_219,
    "lsun_bedroom_256": 113_673_219,
    "celeba_32": 202_783_363,
    "stanford_cars_64": 38_307_203,
    "mnist": 6_949_441,
    "digits": 705_985,
    "digits_unconditional": 704_705,
    "s_curve": 149_250,
}

# Ho et al. 2020, appendix B, and the scripts of their repository.
DDPM = {
    "model.channels": 128,
    "model.num_res_blocks": 2,
    "model.attention_resolutions": (16,),
    "model.num_heads": 1,
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
DDPM_256 = {
    "model.channel_mult": (1, 1, 2, 2, 4, 4),
    "model.dropout": 0.0,
    "diffusion.variance": "fixed_small",
    "train.learning_rate": 2e-5,
    "train.batch_size": 64,
}
PUBLISHED = {
    "cifar10": {
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
}


def config_of(name: str) -> Config:
    return load_config(ROOT / "configs" / f"{name}.py")


def test_every_config_is_in_the_table_of_parameters() -> None:
    assert {file.stem for file in FILES} == PARAMETERS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_network_has_the_published_number_of_parameters(name: str) -> None:
    assert count_parameters(build_network(config_of(name)).abstract) == PARAMETERS[name]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_docstring_states_the_command_and_the_right_count(file: Path) -> None:
    doc = ast.get_docstring(ast.parse(file.read_text()))
    option = "" if file.stem == "digits" else f" --config configs/{file.name}"
    assert re.search(rf"^    python train\.py{re.escape(option)}(?= --|\n|$)", doc, re.MULTILINE)
    for count in re.findall(r"([\d,]{6,}) parameters", doc):
        assert int(count.replace(",", "")) == PARAMETERS[file.stem]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_settings_are_the_published_ones(name: str) -> None:
    settings = dataclasses.asdict(config_of(name))
    for field, value in (DDPM | PUBLISHED[name]).items():
        section, _, key = field.partition(".")
        assert settings[section][key] == value, field


def test_the_schedule_of_the_published_configs_runs_from_1e_4_to_0_02() -> None:
    from ddpm_jax.diffusion import build_diffusion

    betas = build_diffusion(config_of("cifar10").diffusion).schedule.betas
    np.testing.assert_allclose(betas[[0, -1]], [1e-4, 0.02], rtol=1e-12)


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
    "lsun/bedroom": (
        {"image": image(None, None, 3)},
        [{"image": picture(341, 256)}, {"image": picture(256, 400)}],
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


@pytest.mark.parametrize("name", [name for name in PARAMETERS if name not in ("s_curve",)])
def test_records_of_the_data_set_become_batches_of_the_config_shape(
    name: str, tmp_path: Path
) -> None:
    config = config_of(name)
    if config.data.name.startswith("tfds:"):
        spec = config.data.name.removeprefix("tfds:")
        features, records = TFDS_SETS[spec]
        splits = dict.fromkeys(config.data.split.split("+"), records)
        write_tfds(tmp_path, spec, features, splits)
    source = load_source(dataclasses.replace(config.data, dir=str(tmp_path)))
    check(config)
    check_labels(config, source.num_classes)
    with train_batches(source, config.data, batch_size=4, seed=0) as batches:
        batch = next(batches)
    assert batch["x"].shape == (4, *data_shape(config)) and batch["x"].dtype == np.uint8
    assert batch["x"].std() > 5
    labelled = source.num_classes > 0
    assert ((batch["label"] >= 0) == labelled).all() and (batch["label"] < 196).all()


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
