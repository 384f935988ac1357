"""Rules that a config must keep, and what breaks one."""

import math
from collections.abc import Iterator
from dataclasses import fields

from ddpm_jax.config.schema import Config, traced_steps
from ddpm_jax.errors import UserError


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
    if model.num_classes < -1:
        yield "model.num_classes", model.num_classes, "-1 (as many as the data set has) or more"
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
    if model.kind == "classifier" and model.num_classes in (0, 1):
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
