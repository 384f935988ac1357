"""A run around its steps: its folder, its log entries, its end."""

from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.config import Config, TrainConfig
from ddpm_jax.data import Source, first_images, shrink
from ddpm_jax.generation.labels import choose_labels
from ddpm_jax.runs.digest import sha256
from ddpm_jax.runs.metrics_log import MetricsLog, read_records
from ddpm_jax.runtime import processes
from ddpm_jax.training.metric_window import MetricWindow
from ddpm_jax.training.state import TrainState
from ddpm_jax.visualization.plots import save_curves


def picture_inputs(config: Config, source: Source) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels of the pictures drawn in training, and what a super-resolution model enlarges there.

    That is the first training images, their squares of pixels averaged: uint8 [N, h, w, C].
    """
    classes, num = config.model.num_classes, config.sample.num
    if not config.data.low_res_size:
        return choose_labels("", num, classes, seed=0), None
    images, labels = first_images(source, config.data, num)
    low_res = shrink(images, config.data.low_res_size)
    return labels if classes else np.full_like(labels, -1), low_res


def due(step: int, every: int, steps: int) -> bool:
    """Whether what happens every so many steps and at the end happens after `step`; 0: never."""
    return every > 0 and step > 0 and (step % every == 0 or step == steps)


def log_rest(log: MetricsLog, step: int, window: MetricWindow, config: TrainConfig) -> None:
    """Logs the steps since the last entry, for a run that ends before the next one.

    Reports those that were skipped even if nothing is logged. Raises as `MetricWindow.add`.
    """
    window.report_skipped()
    if window and config.log_every_steps:
        log.scalars(step, window.close())


def shown(numbers: dict[str, float]) -> dict[str, str]:
    """What the progress line says of a log entry."""
    return {"loss": f"{numbers['loss']:.4f}", "images/s": f"{numbers['images_per_second']:.0f}"}


def finish(log: MetricsLog, workdir: Path, state: TrainState, source: Source) -> None:
    """The last line of the log, with digests of the state, and the picture of the loss."""
    step = int(state.step)
    digests: dict[str, Any] = {
        "params_sha256": sha256(state.params),
        "ema_sha256": sha256(state.ema),
        "opt_state_sha256": sha256(state.opt_state),
    }
    if state.extra_ema:
        digests["extra_ema_sha256"] = {d: sha256(ema) for d, ema in state.extra_ema.items()}
    # Each of several processes knows of those that it met.
    if broken := set().union(*processes.all_gather_objects(set(source.broken))):
        print(f"{len(broken)} of {len(source)} images were broken and left out")
    log.event("finished", step=step, **digests)
    if processes.is_main_process():
        save_curves(read_records(workdir / "metrics.jsonl"), workdir / "loss.png")
    print(f"finished after step {step}: {workdir}, params {digests['params_sha256'][:12]}")
