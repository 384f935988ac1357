"""The rules that a config must keep: the bounds of each field, and those across fields below.

A rule yields (setting, its value, what it must be) for each setting that breaks it.
"""

from collections.abc import Iterator
from dataclasses import fields

from ddpm_jax.config.bounds import out_of_bounds
from ddpm_jax.config.schema import Config
from ddpm_jax.diffusion.schedules import SCHEDULES
from ddpm_jax.errors import UserError
from ddpm_jax.sampling.samplers import SAMPLERS

Problems = Iterator[tuple[str, object, str]]


def check(config: Config) -> None:
    """Raises UserError for the first setting that cannot work, saying what would."""
    for rule in RULES:
        for setting, value, wanted in rule(config):
            raise UserError(f"--{setting.replace('_', '-')} {value}: must be {wanted}")


def bounds(config: Config) -> Problems:
    for section in fields(config):
        for name, value, wanted in out_of_bounds(getattr(config, section.name)):
            yield f"{section.name}.{name}", value, wanted


def averages(config: Config) -> Problems:
    extra = config.train.extra_ema_decays
    if not all(0 < n < 1 for n in extra) or len({config.train.ema_decay, *extra}) <= len(extra):
        wanted = "in (0, 1), none of them twice, and none that of --train.ema-decay"
        yield "train.extra_ema_decays", extra, wanted


def batches(config: Config) -> Problems:
    micro_batches, batch_size = config.train.grad_accumulation_steps, config.train.batch_size
    if batch_size % micro_batches:
        wanted = f"a divisor of the batch {batch_size}"
        yield "train.grad_accumulation_steps", micro_batches, wanted


def betas(config: Config) -> Problems:
    diffusion = config.diffusion
    for name in ("start", "end"):
        beta = getattr(diffusion, f"beta_{name}")
        # The other schedules ignore a bound that they do not have, as the original code does.
        if beta is not None and not SCHEDULES[diffusion.schedule].settings:
            wanted = f"None: --diffusion.schedule {diffusion.schedule} has no such bound"
            yield f"diffusion.beta_{name}", beta, wanted


def losses(config: Config) -> Problems:
    diffusion = config.diffusion
    if diffusion.weighting != "none" and diffusion.loss in ("kl", "rescaled_kl"):
        yield "diffusion.weighting", diffusion.weighting, "none for --diffusion.loss kl"


def early_stopping(config: Config) -> Problems:
    train = config.train
    validates = config.data.held_out and train.validate_every_steps
    if train.early_stop_validations and not validates:
        wanted = "0 without --data.held-out and --train.validate-every-steps"
        yield "train.early_stop_validations", train.early_stop_validations, wanted


def sampling(config: Config) -> Problems:
    if config.sample.eta and not SAMPLERS[config.sample.sampler].takes_eta:
        known = " or ".join(name for name, row in SAMPLERS.items() if row.takes_eta)
        yield "sample.eta", config.sample.eta, f"0 but for --sample.sampler {known}"


def low_resolution(config: Config) -> Problems:
    low, side = config.data.low_res_size, config.data.image_size
    if low and config.model.kind != "unet":
        yield "data.low_res_size", low, f"0 for --model.kind {config.model.kind}"
    if low and (side % low or low == side):
        yield "data.low_res_size", low, f"0, or a divisor of {side} that is less"


def points(config: Config) -> Problems:
    data, model = config.data, config.model
    of_points = data.name == "s_curve"
    if of_points and data.held_out:
        yield "data.held_out", data.held_out, "empty: points are not validated on"
    if of_points != (model.kind == "mlp"):
        kind = "mlp" if of_points else "unet"
        yield "model.kind", model.kind, f"{kind} for --data.name {data.name}"
    if model.kind == "mlp" and model.dropout:
        yield "model.dropout", model.dropout, "0 for --model.kind mlp"
    if model.kind == "mlp" and model.remat:
        yield "model.remat", model.remat, "False for --model.kind mlp, which has no blocks"
    if of_points and model.num_classes:
        yield "model.num_classes", model.num_classes, "0: the points of s_curve have no labels"


def classes(config: Config) -> Problems:
    label_dropout, num_classes = config.diffusion.label_dropout, config.model.num_classes
    if label_dropout and not num_classes:
        yield "diffusion.label_dropout", label_dropout, "0 without --model.num-classes"
    if config.model.kind == "classifier" and label_dropout:
        yield "diffusion.label_dropout", label_dropout, "0 for a classifier"
    if config.model.kind == "classifier" and num_classes in (0, 1):
        yield "model.num_classes", num_classes, "2 or more for a classifier"


def levels(config: Config) -> Problems:
    model, side, widths = config.model, config.data.image_size, _widths(config)
    if model.kind == "mlp":
        return
    if not widths or min(widths) < 1:
        yield "model.channel_mult", model.channel_mult, "one positive number or more"
        return
    if side % 2 ** (len(widths) - 1):
        yield "data.image_size", side, f"a multiple of {2 ** (len(widths) - 1)}, or fewer levels"
    # The hidden layer of this head has 2048, models.classifier.HIDDEN.
    normed = [*widths, 2048] if model.pool == "spatial_v2" else widths
    normed = normed if model.first_width == "level" else [model.channels, *normed]
    if any(width % model.norm_groups for width in normed):
        wanted = f"a divisor of the width of every level, {widths}"
        yield "model.norm_groups", model.norm_groups, wanted


def attention(config: Config) -> Problems:
    model, widths = config.model, _widths(config)
    if model.kind == "mlp":
        return
    sides = [config.data.image_size // 2**level for level in range(len(widths))]
    for side in model.attention_resolutions:
        if side not in sides:
            wanted = f"among the sides of the levels, {sides}"
            yield "model.attention_resolutions", side, wanted
    attending = {
        width
        for width, side in zip(widths, sides, strict=True)
        if side in model.attention_resolutions
    }
    by_channels = model.num_head_channels > 0
    heads = ("num_head_channels",) if by_channels else ("num_heads", "num_heads_upsample")
    for name in heads:
        # The middle always attends, and has as many heads as the encoder.
        middle = set() if name == "num_heads_upsample" else {widths[-1]}
        for width in attending | middle:
            if width % (getattr(model, name) or 1):
                wanted = f"a divisor of the width of every level that attends, here {width}"
                yield f"model.{name}", getattr(model, name), wanted


def _widths(config: Config) -> list[int]:
    """Channels of each level of a U-Net or a classifier."""
    return [int(mult * config.model.channels) for mult in config.model.channel_mult]


RULES = (
    bounds,  # first, so that the others may divide
    averages,
    batches,
    betas,
    early_stopping,
    sampling,
    losses,
    low_resolution,
    points,
    classes,
    levels,
    attention,
)
