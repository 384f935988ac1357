"""Every setting of a run: its unit, its default, its bounds.

A config file defines `get_config() -> Config`. Every field can be overridden on the command line,
as in `--train.batch-size 64`. The resolved config travels with the run as JSON.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ddpm_jax.config.bounds import (
    AboveZero,
    ChainLength,
    ClosedFraction,
    ColourChannels,
    Count,
    Fraction,
    NotNegative,
    NumClasses,
    Positive,
    Seed,
    StepRange,
    is_step_range,
)
from ddpm_jax.diffusion.losses import LOSSES, WEIGHTINGS
from ddpm_jax.diffusion.predictions import PREDICTIONS
from ddpm_jax.diffusion.process import VARIANCES
from ddpm_jax.diffusion.schedules import SCHEDULES
from ddpm_jax.diffusion.spacing import SPACINGS
from ddpm_jax.diffusion.timesteps import TIMESTEP_SAMPLERS
from ddpm_jax.sampling.samplers import SAMPLERS

if TYPE_CHECKING:  # which names a table holds is known at run time alone
    Schedule = str
    Prediction = str
    Variance = str
    Loss = str
    Weighting = str
    TimestepSampler = str
    SamplerName = str
    Spacing = str
else:
    Schedule = Literal[*SCHEDULES]
    Prediction = Literal[*PREDICTIONS]
    Variance = Literal[*VARIANCES]
    Loss = Literal[*LOSSES]
    Weighting = Literal[*WEIGHTINGS]
    TimestepSampler = Literal[*TIMESTEP_SAMPLERS]
    SamplerName = Literal[*SAMPLERS]
    Spacing = Literal["default", *SPACINGS]


@dataclass(frozen=True)
class DataConfig:
    """Which examples, and how they become arrays."""

    name: str = "digits"  # digits, s_curve, tfds:NAME or folder:PATH
    dir: str = ""  # folder of prepared TFDS data sets; empty: ~/tensorflow_datasets
    split: str = "train"  # TFDS split; splits joined by "+", as in train+test
    image_size: Positive = 32  # pixels a side; other images are resized and centre-cropped to it
    channels: ColourChannels = 3  # 1 for grey, 3 for RGB
    flip: bool = False  # mirror each image left-right with probability 1/2
    random_crop: bool = False  # cut from a random place of the image, 0.8 to 1 of its shorter side
    held_out: str = ""  # what to validate on: a share of the examples, as in 10%, or a TFDS split
    labels: str = "folders"  # of a folder: "folders", "names" (before the first _) or a CSV file
    low_res_size: Count = 0  # side of the image that a super-resolution model enlarges; 0: none
    class_names: tuple[str, ...] = ()  # names of the classes in order, filled in from the data


@dataclass(frozen=True)
class ModelConfig:
    """The network. The defaults are the U-Net of DDPM for CIFAR-10 (Ho et al. 2020, appendix B)."""

    kind: Literal["unet", "mlp", "classifier"] = "unet"  # mlp: 2-D points; classifier: noisy images
    channels: Positive = 128  # width of the first level (unet) or of every hidden layer (mlp)
    channel_mult: tuple[float, ...] = (1, 2, 2, 2)  # width of each level, in units of channels
    first_width: Literal["level", "channels"] = "level"  # of the first convolution; DDPM: channels
    num_res_blocks: Positive = 2  # residual blocks a level (unet) or hidden layers (mlp)
    attention_resolutions: tuple[int, ...] = (16,)  # sides, in pixels, of the levels that attend
    num_heads: Positive = 1  # attention heads, if num_head_channels is 0
    num_heads_upsample: Count = 0  # attention heads of the decoder; 0: as of the encoder
    num_head_channels: Count = 0  # channels of each attention head; 0: num_heads decides
    num_classes: NumClasses = 0  # of the labels; 0: unconditional; -1: as many as the data set has
    dropout: Fraction = 0.0  # probability of dropping an activation inside residual blocks
    scale_shift_norm: bool = False  # adaptive group norm: the embedding scales and shifts
    resblock_updown: bool = False  # resample inside residual blocks, as BigGAN does
    resample_with_conv: bool = True  # a convolution with each up- and downsampling
    rescale_residual: bool = False  # divide each residual sum by sqrt(2)
    attention_order: Literal["legacy", "new"] = "legacy"  # layout of the q, k, v projection
    norm_groups: Positive = 32  # groups of each group norm; fewer suit nets under 64 channels
    norm_epsilon: AboveZero = 1e-5  # added to the variance in each group norm; DDPM's is 1e-6
    downsample_padding: Literal["symmetric", "after"] = "symmetric"  # at stride 2; DDPM's: after
    timestep_embedding: Literal["cos_sin", "sin_cos"] = "cos_sin"  # sin_cos: DDPM's
    pool: Literal["attention", "adaptive", "spatial", "spatial_v2"] = "attention"  # of a classifier
    dtype: Literal["float32", "bfloat16"] = "float32"  # of computation; parameters are float32
    remat: bool = False  # gradients compute each block's activations anew: slower, less memory


@dataclass(frozen=True)
class DiffusionConfig:
    """The forward process, what the network predicts, and the loss."""

    timesteps: ChainLength = 1000  # T, the length of the chain in training
    schedule: Schedule = "linear"  # of the betas
    beta_start: float | None = None  # first beta; None: the schedule's own
    beta_end: float | None = None  # last beta; None: the schedule's own
    sigmoid_range: tuple[float, float] = (-6.0, 6.0)  # part of the sigmoid that betas follow
    rescale_timesteps: bool = False  # the network sees t * 1000 / T
    prediction: Prediction = "eps"  # what the network returns
    variance: Variance = "fixed_small"  # of p(x_{t-1} | x_t)
    loss: Loss = "mse"  # a learned variance adds the bound to mse, T/1000 of it to rescaled_mse
    weighting: Weighting = "none"  # of the timesteps, in mse and l1
    min_snr_gamma: AboveZero = 5.0  # signal-to-noise ratio above which min_snr lowers the weight
    p2_gamma: NotNegative = 1.0  # p2 weighs by (k + signal-to-noise ratio)^-gamma
    p2_k: AboveZero = 1.0  # the k of p2
    timestep_sampler: TimestepSampler = "uniform"  # loss_second_moment: often where it is large
    label_dropout: Fraction = 0.0  # probability of training an example without its label


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation, and how often things happen."""

    steps: Count = 1000  # optimizer steps
    batch_size: Positive = 128  # examples a step, over all devices
    seed: Seed = 0  # of parameters, data order, t, noise and dropout
    learning_rate: AboveZero = 2e-4  # peak, after the warm-up
    learning_rate_decay: Literal["constant", "linear", "cosine"] = "constant"  # to 0 at the end
    warmup_steps: Count = 0  # the learning rate rises linearly over these
    adam_b1: Fraction = 0.9
    adam_b2: Fraction = 0.999
    weight_decay: NotNegative = 0.0  # decoupled, as in AdamW
    gradient_clip_norm: NotNegative = 1.0  # largest global norm of the gradient; 0: no clipping
    grad_accumulation_steps: Positive = 1  # micro-batches that share one optimizer step
    ema_decay: Fraction = 0.9999  # of the averaged weights
    extra_ema_decays: tuple[float, ...] = ()  # of further averages, for sample.py --ema
    ema_warmup: bool = True  # reach that decay as (1 + step) / (10 + step)
    checkpoint_every_steps: Count = 1000  # 0: only at the end
    keep_checkpoints: Positive = 3  # newest ones kept
    sample_every_steps: Count = 1000  # a grid from the averaged weights; 0: none
    log_every_steps: Count = 100  # 0: none
    wandb_project: str = ""  # of Weights & Biases, which then shows the log too; empty: none
    validate_every_steps: Count = 1000  # on data.held_out, if that is given; 0: never
    early_stop_validations: Count = 0  # stop after so many in a row with no lower loss; 0: never
    max_skipped_steps: Count = 20  # non-finite steps in a row before the run stops; 0: never
    stop_on_failed_save: bool = True  # False: one process warns and goes on, but for the last save


@dataclass(frozen=True)
class SampleConfig:
    """How samples are drawn, in training and, by default, by sample.py."""

    sampler: SamplerName = "ddpm"
    steps: str = ""  # "250"; respaced "10,15,20" (a section each), "ddim50"; "": the sampler's own
    spacing: Spacing = "default"  # how they are placed; default: as suits the sampler
    eta: ClosedFraction = 0.0  # DDIM's noise: 0 is deterministic, 1 is ancestral
    clip: bool = True  # clip the predicted x_0 to [-1, 1] at each step
    clip_guided: bool = True  # clip it after guidance too; False: as ADM's code
    num: Positive = 64  # pictures in the grids that training draws
    batch_size: Positive = 64  # pictures drawn at once


@dataclass(frozen=True)
class EvaluateConfig:
    """What training measures of samples as it goes, by which it keeps the best checkpoint."""

    every_steps: Count = 0  # draw and measure so often; 0: never
    num: Positive = 5000  # samples from the averaged weights
    metrics: str = "fid"  # as evaluate.py --metrics; the checkpoint best by the first one is kept
    features: str = "inception"  # or classifier:DIR, or module:function
    protocol: str = "adm"  # of Inception, as evaluate.py --protocol


@dataclass(frozen=True)
class ParallelConfig:
    """The mesh of devices."""

    data: Count = 0  # devices that share a batch; 0: all that divide it
    fsdp: Positive = 1  # devices that share the parameters


@dataclass(frozen=True)
class ProfileConfig:
    """What of a run is traced, for TensorBoard and Perfetto."""

    steps: StepRange = ""  # the first and the last step, as in 10:15; empty: none


@dataclass(frozen=True)
class Config:
    """One experiment."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)


def data_shape(config: Config) -> tuple[int, ...]:
    """Shape of one example: (2,) for points, (H, W, C) for images."""
    if config.data.name == "s_curve":
        return (2,)
    return (config.data.image_size, config.data.image_size, config.data.channels)


def traced_steps(config: ProfileConfig) -> range:
    """The steps to trace; raises ValueError unless they are two numbers as in 10:15, or nothing."""
    if not is_step_range(config.steps):
        raise ValueError(config.steps)
    first, _, last = config.steps.partition(":")
    return range(int(first), int(last) + 1) if config.steps else range(0)
