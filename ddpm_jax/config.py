"""Every setting of a run: its unit, its default, its check.

A config file defines `get_config() -> Config`. Every field can be overridden on the command line,
as in `--train.batch-size 64`. The resolved config travels with the run as JSON.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Literal

from ddpm_jax.errors import UserError

Prediction = Literal["eps", "x_start", "x_prev", "v"]
Variance = Literal["fixed_small", "fixed_large", "learned", "learned_range"]
Loss = Literal["mse", "l1", "rescaled_mse", "kl", "rescaled_kl"]
Weighting = Literal["none", "min_snr", "p2"]
TimestepSampler = Literal["uniform", "antithetic", "stratified", "loss_second_moment"]


@dataclass(frozen=True)
class DataConfig:
    """Which examples, and how they become arrays."""

    name: str = "digits"  # digits, s_curve, tfds:NAME or folder:PATH
    dir: str = ""  # folder of prepared TFDS data sets; empty: ~/tensorflow_datasets
    split: str = "train"  # TFDS split; splits joined by "+", as in train+test
    image_size: int = 32  # pixels a side; other images are resized and centre-cropped to it
    channels: int = 3  # 1 for grey, 3 for RGB
    flip: bool = False  # mirror each image left-right with probability 1/2
    random_crop: bool = False  # cut from a random place of the image, 0.8 to 1 of its shorter side
    held_out: str = ""  # what to validate on: a share of the examples, as in 10%, or a TFDS split
    labels: str = "folders"  # of a folder: "folders", "names" (before the first _) or a CSV file
    low_res_size: int = 0  # side of the image that a super-resolution model enlarges; 0: none


@dataclass(frozen=True)
class ModelConfig:
    """The network. The defaults are the U-Net of DDPM for CIFAR-10 (Ho et al. 2020, appendix B)."""

    kind: Literal["unet", "mlp", "classifier"] = "unet"  # mlp: 2-D points; classifier: noisy images
    channels: int = 128  # width of the first level (unet) or of every hidden layer (mlp)
    channel_mult: tuple[float, ...] = (1, 2, 2, 2)  # width of each level, in units of channels
    num_res_blocks: int = 2  # residual blocks a level (unet) or hidden layers (mlp)
    attention_resolutions: tuple[int, ...] = (16,)  # sides, in pixels, of the levels that attend
    num_heads: int = 1  # attention heads, if num_head_channels is 0
    num_heads_upsample: int = 0  # attention heads on the way up; 0: as on the way down
    num_head_channels: int = 0  # channels of each attention head; 0: num_heads decides
    num_classes: int = 0  # labels 0..num_classes-1 condition the model; 0: unconditional
    dropout: float = 0.0  # probability of dropping an activation inside residual blocks
    scale_shift_norm: bool = False  # adaptive group norm: the embedding scales and shifts
    resblock_updown: bool = False  # resample inside residual blocks, as BigGAN does
    resample_with_conv: bool = True  # a convolution with each up- and downsampling
    rescale_residual: bool = False  # divide each residual sum by sqrt(2)
    attention_order: Literal["legacy", "new"] = "legacy"  # layout of the q, k, v projection
    norm_groups: int = 32  # groups of each group norm; fewer suit nets under 64 channels
    norm_epsilon: float = 1e-5  # added to the variance in each group norm; DDPM's is 1e-6
    downsample_padding: Literal["symmetric", "after"] = "symmetric"  # at stride 2; DDPM's: after
    timestep_embedding: Literal["cos_sin", "sin_cos"] = "cos_sin"  # sin_cos: DDPM's
    pool: Literal["attention", "adaptive", "spatial", "spatial_v2"] = "attention"  # of a classifier
    dtype: Literal["float32", "bfloat16"] = "float32"  # of computation; parameters are float32
    remat: bool = False  # gradients compute each block's activations anew: slower, less memory


@dataclass(frozen=True)
class DiffusionConfig:
    """The forward process, what the network predicts, and the loss."""

    timesteps: int = 1000  # T, the length of the chain in training
    schedule: Literal[
        "linear", "cosine", "sigmoid", "quadratic", "constant", "jsd", "warmup10", "warmup50"
    ] = "linear"
    beta_start: float | None = None  # first beta; None: the schedule's own
    beta_end: float | None = None  # last beta; None: the schedule's own
    sigmoid_range: tuple[float, float] = (-6.0, 6.0)  # part of the sigmoid that betas follow
    rescale_timesteps: bool = False  # the network sees t * 1000 / T
    prediction: Prediction = "eps"  # what the network returns
    variance: Variance = "fixed_small"  # of p(x_{t-1} | x_t)
    loss: Loss = "mse"  # a learned variance adds the bound to mse, T/1000 of it to rescaled_mse
    weighting: Weighting = "none"  # of the timesteps, in mse and l1
    min_snr_gamma: float = 5.0  # signal-to-noise ratio above which min_snr lowers the weight
    p2_gamma: float = 1.0  # p2 weighs by (k + signal-to-noise ratio)^-gamma
    p2_k: float = 1.0  # the k of p2
    timestep_sampler: TimestepSampler = "uniform"  # loss_second_moment: often where it is large
    label_dropout: float = 0.0  # probability of training an example without its label


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation, and how often things happen."""

    steps: int = 1000  # optimizer steps
    batch_size: int = 128  # examples a step, over all devices
    seed: int = 0  # of parameters, data order, t, noise and dropout
    learning_rate: float = 2e-4  # peak, after the warm-up
    learning_rate_decay: Literal["constant", "linear", "cosine"] = "constant"  # to 0 at the end
    warmup_steps: int = 0  # the learning rate rises linearly over these
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    weight_decay: float = 0.0  # decoupled, as in AdamW
    gradient_clip_norm: float = 1.0  # largest global norm of the gradient; 0: no clipping
    grad_accumulation_steps: int = 1  # micro-batches that share one optimizer step
    ema_decay: float = 0.9999  # of the averaged weights
    extra_ema_decays: tuple[float, ...] = ()  # of further averages, for sample.py --ema
    ema_warmup: bool = True  # reach that decay as (1 + step) / (10 + step)
    checkpoint_every_steps: int = 1000  # 0: only at the end
    keep_checkpoints: int = 3  # newest ones kept
    sample_every_steps: int = 1000  # a grid from the averaged weights; 0: none
    log_every_steps: int = 100  # 0: none
    validate_every_steps: int = 1000  # on data.held_out, if that is given; 0: never
    early_stop_validations: int = 0  # stop after so many in a row with no lower loss; 0: never
    max_skipped_steps: int = 20  # non-finite steps in a row before the run stops; 0: never
    stop_on_failed_save: bool = True  # False: one process warns and goes on, but for the last save


@dataclass(frozen=True)
class SampleConfig:
    """How pictures are drawn, in training and by sample.py unless told otherwise."""

    sampler: Literal["ddpm", "ddim"] = "ddpm"
    steps: str = ""  # length of the chain: "250", "10,15,20" (a section each), "ddim50"; "": all
    eta: float = 0.0  # DDIM's noise: 0 is deterministic, 1 is ancestral
    clip: bool = True  # clip the predicted x_0 to [-1, 1] at each step
    num: int = 64  # pictures in the grids that training draws
    batch_size: int = 64  # pictures drawn at once


@dataclass(frozen=True)
class ParallelConfig:
    """The mesh of devices."""

    data: int = 0  # devices that share a batch; 0: all that divide it
    fsdp: int = 1  # devices that share the parameters


@dataclass(frozen=True)
class ProfileConfig:
    """What of a run is traced, for TensorBoard and Perfetto."""

    steps: str = ""  # the first and the last step, as in 10:15; empty: none


@dataclass(frozen=True)
class Config:
    """One experiment."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)


def data_shape(config: Config) -> tuple[int, ...]:
    """Shape of one example: (2,) for points, (H, W, C) for images."""
    if config.data.name == "s_curve":
        return (2,)
    return (config.data.image_size, config.data.image_size, config.data.channels)


def traced_steps(config: ProfileConfig) -> range:
    """The steps to trace; raises ValueError unless they are two numbers as in 10:15, or nothing."""
    if not config.steps:
        return range(0)
    first, last = map(int, config.steps.split(":"))
    if not 1 <= first <= last:
        raise ValueError(config.steps)
    return range(first, last + 1)


def check(config: Config) -> None:
    """Raises UserError for the first setting that cannot work, saying what would."""
    for option, value, wanted in _problems(config):
        raise UserError(f"--{option.replace('_', '-')} {value}: must be {wanted}")


def _problems(config: Config) -> Iterator[tuple[str, object, str]]:
    """(option, value, what it must be) for each setting out of bounds."""
    data, model, diffusion, train = config.data, config.model, config.diffusion, config.train
    for section in fields(config):
        for name, value in vars(getattr(config, section.name)).items():
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(math.isfinite(n) for n in numbers if isinstance(n, float)):
                yield f"{section.name}.{name}", value, "finite"
    positive = {
        "data.image_size": data.image_size,
        "model.channels": model.channels,
        "model.num_res_blocks": model.num_res_blocks,
        "model.num_heads": model.num_heads,
        "model.norm_groups": model.norm_groups,
        "train.batch_size": train.batch_size,
        "train.grad_accumulation_steps": train.grad_accumulation_steps,
        "train.keep_checkpoints": train.keep_checkpoints,
        "sample.num": config.sample.num,
        "sample.batch_size": config.sample.batch_size,
        "parallel.fsdp": config.parallel.fsdp,
    }
    yield from ((name, n, "at least 1") for name, n in positive.items() if n < 1)
    not_negative = {
        "model.num_head_channels": model.num_head_channels,
        "model.num_classes": model.num_classes,
        "model.num_heads_upsample": model.num_heads_upsample,
        "data.low_res_size": data.low_res_size,
        "diffusion.p2_gamma": diffusion.p2_gamma,
        "train.steps": train.steps,
        "train.warmup_steps": train.warmup_steps,
        "train.weight_decay": train.weight_decay,
        "train.gradient_clip_norm": train.gradient_clip_norm,
        "train.checkpoint_every_steps": train.checkpoint_every_steps,
        "train.sample_every_steps": train.sample_every_steps,
        "train.log_every_steps": train.log_every_steps,
        "train.validate_every_steps": train.validate_every_steps,
        "train.early_stop_validations": train.early_stop_validations,
        "train.max_skipped_steps": train.max_skipped_steps,
        "parallel.data": config.parallel.data,
    }
    yield from ((name, n, "0 or more") for name, n in not_negative.items() if n < 0)
    fractions = {
        "model.dropout": model.dropout,
        "diffusion.label_dropout": diffusion.label_dropout,
        "train.ema_decay": train.ema_decay,
        "train.adam_b1": train.adam_b1,
        "train.adam_b2": train.adam_b2,
    }
    yield from ((name, n, "in [0, 1)") for name, n in fractions.items() if not 0 <= n < 1)
    if not 0 <= config.sample.eta <= 1:
        yield "sample.eta", config.sample.eta, "in [0, 1]"
    if data.channels not in (1, 3):
        yield "data.channels", data.channels, "1 (grey) or 3 (RGB)"
    above_0 = {
        "train.learning_rate": train.learning_rate,
        "model.norm_epsilon": model.norm_epsilon,
        "diffusion.min_snr_gamma": diffusion.min_snr_gamma,
        "diffusion.p2_k": diffusion.p2_k,
    }
    yield from ((name, n, "above 0") for name, n in above_0.items() if n <= 0)
    try:
        traced_steps(config.profile)
    except ValueError:
        yield "profile.steps", config.profile.steps, "the first and the last step, as in 10:15"
    if diffusion.timesteps < 2:
        yield "diffusion.timesteps", diffusion.timesteps, "at least 2"
    if not 0 <= train.seed < 2**32:
        yield "train.seed", train.seed, "in [0, 2^32)"
    extra = train.extra_ema_decays
    if not all(0 < n < 1 for n in extra) or len({train.ema_decay, *extra}) <= len(extra):
        wanted = "in (0, 1), none of them twice, and none that of --train.ema-decay"
        yield "train.extra_ema_decays", extra, wanted
    if train.batch_size % train.grad_accumulation_steps:
        parts = train.grad_accumulation_steps
        yield "train.grad_accumulation_steps", parts, f"a divisor of the batch {train.batch_size}"
    if diffusion.schedule in ("cosine", "jsd"):
        bounds = {"beta_start": diffusion.beta_start, "beta_end": diffusion.beta_end}
        wanted = f"None: --diffusion.schedule {diffusion.schedule} has no such bound"
        yield from (
            (f"diffusion.{name}", beta, wanted) for name, beta in bounds.items() if beta is not None
        )
    if train.early_stop_validations and not (data.held_out and train.validate_every_steps):
        wanted = "0 without --data.held-out and --train.validate-every-steps"
        yield "train.early_stop_validations", train.early_stop_validations, wanted
    if config.sample.eta and config.sample.sampler != "ddim":
        yield "sample.eta", config.sample.eta, "0 but for --sample.sampler ddim"
    if diffusion.label_dropout and not model.num_classes:
        yield "diffusion.label_dropout", diffusion.label_dropout, "0 without --model.num-classes"
    if diffusion.weighting != "none" and diffusion.loss in ("kl", "rescaled_kl"):
        yield "diffusion.weighting", diffusion.weighting, "none for --diffusion.loss kl"
    if data.low_res_size and model.kind != "unet":
        yield "data.low_res_size", data.low_res_size, f"0 for --model.kind {model.kind}"
    if data.low_res_size and (
        data.image_size % data.low_res_size or data.low_res_size == data.image_size
    ):
        wanted = f"0, or a divisor of {data.image_size} that is less"
        yield "data.low_res_size", data.low_res_size, wanted
    points = data.name == "s_curve"
    if points and data.held_out:
        yield "data.held_out", data.held_out, "empty: points are not validated on"
    if points != (model.kind == "mlp"):
        yield "model.kind", model.kind, f"{'mlp' if points else 'unet'} for --data.name {data.name}"
    if model.kind == "classifier" and diffusion.label_dropout:
        yield "diffusion.label_dropout", diffusion.label_dropout, "0 for a classifier"
    if model.kind == "classifier" and model.num_classes < 2:
        yield "model.num_classes", model.num_classes, "2 or more for a classifier"
    if model.kind == "mlp" and model.dropout:
        yield "model.dropout", model.dropout, "0 for --model.kind mlp"
    if model.kind == "mlp" and model.remat:
        yield "model.remat", model.remat, "False for --model.kind mlp, which has no blocks"
    if points and model.num_classes:
        yield "model.num_classes", model.num_classes, "0: the points of s_curve have no labels"
    if model.kind != "mlp":
        yield from _unet_problems(config)


def _unet_problems(config: Config) -> Iterator[tuple[str, object, str]]:
    model, side = config.model, config.data.image_size
    widths = [int(mult * model.channels) for mult in model.channel_mult]
    if not widths or min(widths) < 1:
        yield "model.channel_mult", model.channel_mult, "one positive number or more"
        return
    if side % 2 ** (len(widths) - 1):
        yield "data.image_size", side, f"a multiple of {2 ** (len(widths) - 1)}, or fewer levels"
    # The hidden layer of this head has 2048, models.classifier.HIDDEN.
    normed = [*widths, 2048] if model.pool == "spatial_v2" else widths
    for width in normed:
        if width % model.norm_groups:
            wanted = f"a divisor of the width of every level, {widths}"
            yield "model.norm_groups", model.norm_groups, wanted
    sides = [side // 2**level for level in range(len(widths))]
    for resolution in model.attention_resolutions:
        if resolution not in sides:
            yield (
                "model.attention_resolutions",
                resolution,
                f"among the sides of the levels, {sides}",
            )
    attending = {
        w for w, at in zip(widths, sides, strict=True) if at in model.attention_resolutions
    }
    heads = (
        ("num_head_channels",) if model.num_head_channels else ("num_heads", "num_heads_upsample")
    )
    for name in heads:
        # The middle attends always, and has as many heads as the way down.
        for width in attending | ({widths[-1]} if name != "num_heads_upsample" else set()):
            if width % (getattr(model, name) or 1):
                wanted = f"a divisor of the width of every level that attends, here {width}"
                yield f"model.{name}", getattr(model, name), wanted
