"""The bounds of every field, and the rules across fields."""

import dataclasses
import typing

import pytest

from ddpm_jax.config import Config, DataConfig, DiffusionConfig, ModelConfig, TrainConfig, check
from ddpm_jax.config.bounds import Bound, is_step_range, out_of_bounds
from ddpm_jax.errors import UserError

SECTIONS = typing.get_type_hints(Config)
# Whatever suits a field whose type is a number is bounded, but for these: None, or a rule across.
UNBOUNDED = {"diffusion.beta_start", "diffusion.beta_end"}


def changed(**settings: object) -> Config:
    """The default config, with `section__field=value` for each setting changed."""
    config = Config()
    for name, value in settings.items():
        section, field = name.split("__")
        part = dataclasses.replace(getattr(config, section), **{field: value})
        config = dataclasses.replace(config, **{section: part})
    return config


def refusal(**settings: object) -> str:
    with pytest.raises(UserError) as error:
        check(changed(**settings))
    return str(error.value)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_has_its_bounds_beside_it(section: str) -> None:
    hints = typing.get_type_hints(SECTIONS[section], include_extras=True)
    bare = {f"{section}.{name}" for name, kind in hints.items() if kind in (int, float)}
    assert bare <= UNBOUNDED
    for kind in hints.values():
        assert all(isinstance(bound, Bound) for bound in getattr(kind, "__metadata__", ()))


@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [
        ("train__steps", -1, "--train.steps -1: must be 0 or more"),
        ("train__batch_size", 0, "--train.batch-size 0: must be at least 1"),
        ("train__ema_decay", 1.0, "--train.ema-decay 1.0: must be in [0, 1)"),
        ("train__seed", 2**32, "--train.seed 4294967296: must be in [0, 2^32)"),
        ("train__learning_rate", 0.0, "--train.learning-rate 0.0: must be above 0"),
        ("train__weight_decay", -0.1, "--train.weight-decay -0.1: must be 0 or more"),
        ("sample__eta", 1.5, "--sample.eta 1.5: must be in [0, 1]"),
        ("data__channels", 2, "--data.channels 2: must be 1 (grey) or 3 (RGB)"),
        ("diffusion__timesteps", 1, "--diffusion.timesteps 1: must be at least 2"),
        (
            "model__num_classes",
            -2,
            "--model.num-classes -2: must be 0 or more, or -1: as many as the data set has",
        ),
        (
            "profile__steps",
            "5:4",
            "--profile.steps 5:4: must be the first and the last step, as in 10:15",
        ),
    ],
)
def test_a_setting_out_of_bounds_is_named_with_what_it_must_be(
    setting: str, value: object, wanted: str
) -> None:
    assert refusal(**{setting: value}) == wanted


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_setting_may_be_infinite_or_no_number(value: float) -> None:
    for section, kind in SECTIONS.items():
        for field in dataclasses.fields(kind):
            if isinstance(getattr(getattr(Config(), section), field.name), float):
                message = refusal(**{f"{section}__{field.name}": value})
                assert field.name.replace("_", "-") in message and "finite" in message
    assert "(nan, 1): must be finite" in refusal(model__channel_mult=(float("nan"), 1))


def test_a_field_of_any_dataclass_may_have_bounds() -> None:
    @dataclasses.dataclass
    class Args:
        num: typing.Annotated[int | None, Bound("even", lambda n: n % 2 == 0)] = None
        name: str = "any"

    assert list(out_of_bounds(Args())) == []
    assert list(out_of_bounds(Args(num=4))) == []
    assert list(out_of_bounds(Args(num=3))) == [("num", 3, "even")]


@pytest.mark.parametrize(
    ("text", "fits"),
    [("", True), ("10:15", True), ("1:1", True), ("0:1", False), ("5", False), ("-1:4", False)],
)
def test_a_range_of_steps_is_two_numbers_in_order(text: str, fits: bool) -> None:
    assert is_step_range(text) == fits


def test_a_network_without_blocks_has_none_to_compute_anew() -> None:
    points = Config(data=DataConfig(name="s_curve"), model=ModelConfig(kind="mlp", remat=True))
    with pytest.raises(
        UserError, match=r"--model\.remat True: must be False for --model\.kind mlp"
    ):
        check(points)


def test_classes_that_the_data_will_count_pass_the_rules_of_classes() -> None:
    check(changed(model__num_classes=-1, diffusion__label_dropout=0.1))
    check(changed(model__num_classes=-1, model__kind="classifier"))
    points = Config(data=DataConfig(name="s_curve"), model=ModelConfig(kind="mlp", num_classes=-1))
    with pytest.raises(UserError, match="the points of s_curve have no labels"):
        check(points)


def test_averages_of_the_weights_differ_in_their_decay() -> None:
    check(Config(train=TrainConfig(extra_ema_decays=(0.9, 0.99))))
    for extra in ((0.9, 0.9), (0.9999,), (1.0,), (0.0,)):
        assert "none of them twice" in refusal(train__extra_ema_decays=extra)


def test_a_schedule_without_bounds_takes_none() -> None:
    check(Config(diffusion=DiffusionConfig(schedule="linear", beta_end=0.5)))
    message = refusal(diffusion__schedule="cosine", diffusion__beta_end=0.5)
    assert message.endswith("must be None: --diffusion.schedule cosine has no such bound")
