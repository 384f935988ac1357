"""What a resumed run may change of its config, and what makes it another run."""

import typing

from ddpm_jax.config.schema import Config
from ddpm_jax.config.serialization import flat

# Settings, and whole sections, that do not change the weights a run arrives at: the data's folder,
# memory, intervals, reactions to failures, sampling, devices, profiles. README lists them.
MAY_CHANGE = frozenset(
    {
        "data.dir",
        "model.remat",
        "train.checkpoint_every_steps",
        "train.keep_checkpoints",
        "train.sample_every_steps",
        "train.log_every_steps",
        "train.wandb_project",
        "train.validate_every_steps",
        "train.max_skipped_steps",
        "train.stop_on_failed_save",
        "sample",
        "parallel",
        "profile",
    }
)


def differences(new: Config, old: Config) -> list[str]:
    """One phrase for each setting that changes what the run computes: `train.seed 0 -> 1`."""
    before = flat(old)
    return [
        f"{name} {before[name]} -> {value}"
        for name, value in flat(new).items()
        if value != before[name] and not _may_change(name, new, old)
    ]


def _may_change(name: str, new: Config, old: Config) -> bool:
    match name:
        case "train.steps":
            return new.train.learning_rate_decay == "constant" or new.train.steps > old.train.steps
        case "train.early_stop_validations":  # its patience, but not whether it is at work
            return bool(new.train.early_stop_validations and old.train.early_stop_validations)
        case "evaluate.every_steps":  # of two kinds of scores, one decides what is best
            both = new.evaluate.every_steps and old.evaluate.every_steps
            return bool(both or not new.train.early_stop_validations)
        case _ if name.startswith("evaluate."):  # scores of earlier steps stay comparable
            return not old.evaluate.every_steps
        case "data.class_names":  # runs of older versions have none
            return not (old.data.class_names and new.model.num_classes)
    return bool({name, name.partition(".")[0]} & MAY_CHANGE)


def consequences(new: Config, old: Config) -> list[str]:
    """A line for each change that is allowed but worth knowing."""
    train, before = new.train, old.train
    if train.learning_rate_decay == "constant" or train.steps <= before.steps:
        return []
    return [
        f"the learning rate now falls to 0 at step {train.steps} instead of {before.steps}: from "
        "the step resumed on it is higher than it would have been"
    ]


def ways_out(workdir: str, config: Config) -> str:
    """What a user can do whose `differences` from the run in `workdir` are refused."""
    sections = typing.get_type_hints(Config)
    free = (f"{name}.*" if name in sections else name for name in sorted(MAY_CHANGE))
    text = f"a resumed run may change {', '.join(free)}, and train for more train.steps"
    if config.model.kind == "mlp":  # its weights cannot be exported
        return text
    run = "python -m ddpm_jax"
    return (
        f"{text}; to start from its averaged weights in a new folder: {run} export_weights "
        f"--workdir {workdir} --to weights.pt, then {run} import_weights weights.pt "
        f"--model CONFIG.py --out NEW, then {run} train --config CONFIG.py --workdir NEW"
    )
