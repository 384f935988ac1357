"""Plots: curves of a log, terms of the bound, sweeps, scatter plots and GIFs of points."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm_jax.visualization.figures import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    RED,
    figure_pixels,
    new_figure,
    save_figure,
)
from ddpm_jax.visualization.images import save_gif, shown_frames

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUARTERS = {  # of the chain: the four curves that lie beside the loss
    "loss_q0": ("0 ≤ t < T/4", BLUE),
    "loss_q1": ("T/4 ≤ t < T/2", GREEN),
    "loss_q2": ("T/2 ≤ t < 3T/4", ORANGE),
    "loss_q3": ("3T/4 ≤ t < T", RED),
}


def draw_points(points: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
    """A scatter plot of points [N, 2] over pale `reference` points [M, 2]: uint8 [H, W, 3]."""
    figure = new_figure(5, 5)
    limit = _limit([points] if reference is None else [points, reference])
    axes = _scatter(figure, (0.02, 0.02, 0.96, 0.96), points, limit, None)
    if reference is not None:
        axes.scatter(reference[:, 0], reference[:, 1], s=36, color=PALE, linewidths=0, zorder=0)
    return figure_pixels(figure)


def save_points_row(
    panels: Sequence[np.ndarray],
    titles: Sequence[str],
    path: str | Path,
    values: np.ndarray | None = None,
) -> None:
    """Writes a row of K titled scatter plots of points [N, 2], each panel fitted to its own points.

    `values` [N] colours the points, the same in every panel, so that the eye can follow them.
    """
    figure = new_figure(2.2 * len(panels), 2.45)
    for k, (points, title) in enumerate(zip(panels, titles, strict=True)):
        place = (k + 0.02) / len(panels), 0.02, 0.96 / len(panels), 0.86
        axes = _scatter(figure, place, points, _limit([points]), values)
        axes.set_title(title, fontsize=11, color=INK)
    save_figure(figure, path)


def save_points_gif(
    frames: np.ndarray,
    titles: Sequence[str],
    path: str | Path,
    values: np.ndarray | None = None,
    seconds: float = 4.0,
    hold_seconds: float = 1.0,
) -> None:
    """Writes points [K, N, 2] that move, as `save_gif` does; `values` as in `save_points_row`."""
    figure = new_figure(4, 4.3)
    axes = _scatter(figure, (0.02, 0.02, 0.96, 0.9), frames[0], 1.0, values)
    pictures = []
    for k in shown_frames(len(frames), seconds):
        limit = _limit([frames[k]])
        axes.collections[0].set_offsets(frames[k])
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
        axes.set_title(titles[k], fontsize=13, color=INK)
        pictures.append(figure_pixels(figure))
    save_gif(np.stack(pictures), path, seconds, hold_seconds)


def save_curves(records: Iterable[dict[str, Any]], path: str | Path) -> None:
    """Draws the loss of a log against the step, with the quarters of t if they are there.

    `records` are those of a metrics.jsonl. Curves of more than 100 points are averaged over a
    moving window of 1/25 of them. Draws nothing where no record has a step and a finite loss.
    """
    records = [record for record in records if "step" in record and "loss" in record]
    curves = {}
    for key in ("loss", *QUARTERS):
        pairs = [(r["step"], r[key]) for r in records if r.get(key) is not None]
        if pairs:
            curves[key] = np.array(pairs, dtype=np.float64).T
    if "loss" not in curves:
        return
    figure = new_figure(8, 4.5)
    axes = figure.add_axes((0.09, 0.12, 0.88, 0.79))
    for key, (step, value) in curves.items():
        label, colour = QUARTERS.get(key, ("all t", INK))
        window = len(value) // 25 if len(value) > 100 else 1
        mean = np.convolve(value, np.full(window, 1 / window), mode="valid")
        if window > 1:
            axes.plot(step, value, color=colour, linewidth=0.8, alpha=0.2)
        middle = step[(window - 1) // 2 :][: len(mean)]
        axes.plot(middle, mean, color=colour, linewidth=2.2 if key == "loss" else 1.4, label=label)
    values = np.concatenate([value for _, value in curves.values()])
    if values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(color=PALE, linewidth=0.6, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=5, frameon=False)
    save_figure(figure, path)


def save_bound(
    timesteps: np.ndarray,
    vb: np.ndarray,
    xstart_mse: np.ndarray,
    eps_mse: np.ndarray,
    path: str | Path,
) -> None:
    """Draws the terms of the variational bound and the errors of x_0 and eps by t, each [T]."""
    figure = new_figure(10, 4)
    left, right = figure.add_axes((0.08, 0.14, 0.4, 0.74)), figure.add_axes((0.57, 0.14, 0.4, 0.74))
    left.plot(timesteps, vb, color=INK, linewidth=1.4)
    left.set(xlabel="t", ylabel="bits per dimension", title="terms of the variational bound")
    right.plot(timesteps, xstart_mse, color=BLUE, linewidth=1.4, label="$x_0$")
    right.plot(timesteps, eps_mse, color=RED, linewidth=1.4, label=r"$\epsilon$")
    right.set(xlabel="t", title="mean squared error")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_yscale("log")
        axes.grid(color=PALE, linewidth=0.6, alpha=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def save_sweep(
    rows: Sequence[dict[str, Any]],
    real: Mapping[str, float],
    titles: Mapping[str, str],
    path: str | Path,
    x: str = "guidance scale",
    log: bool = False,
) -> None:
    """Draws metrics of samples against a setting, a panel for each of `titles`.

    `rows`: a dict for each point, with its metrics by name, the setting as `x`, and `line`, the
    curve that it is on. `real` has the metrics of real images. `x` names the setting, whose axis
    may be logarithmic, as may be those of distances then.
    """
    width = 1 / len(titles)
    figure = new_figure(3.4 * len(titles), 3.6)
    lines = list(dict.fromkeys(row["line"] for row in rows))
    for place, (name, title) in enumerate(titles.items()):
        axes = figure.add_axes(((place + 0.17) * width, 0.15, 0.8 * width, 0.62))
        for i, line in enumerate(lines):
            points = sorted((row["x"], row[name]) for row in rows if row["line"] == line)
            shade = (INK, BLUE, GREEN, ORANGE, RED)[i % 5]
            style = ("o-", "s--", "^:")[i // 5 % 3]
            axes.plot(*zip(*points, strict=True), style, color=shade, markersize=4, label=line)
        axes.axhline(real[name], color=INK, linestyle=":", linewidth=1, label="real images")
        axes.set_title(title, fontsize=10, color=INK)
        axes.set(xlabel=x)
        lowest = min(real[name], *(row[name] for row in rows))
        if log:
            least, most = min(row["x"] for row in rows), max(row["x"] for row in rows)
            ticks = [n * 10**k for k in range(5) for n in (1, 2, 5) if least <= n * 10**k <= most]
            axes.set_xscale("log")
            axes.set_xticks(ticks, labels=[str(tick) for tick in ticks])
            axes.set_xticks([], minor=True)
        if log and lowest > 0 and "less is better" in title:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        elif min(real[name], *(row[name] for row in rows)) >= 0:  # a kernel distance may be below
            axes.set_ylim(bottom=0)
        axes.grid(color=PALE, linewidth=0.6, alpha=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="upper center", ncols=8, frameon=False)
    save_figure(figure, path)


def _limit(panels: Iterable[np.ndarray]) -> float:
    """Half the side of a square about 0 that holds all but the outermost points."""
    sizes = np.concatenate([np.abs(points).max(axis=1) for points in panels])
    sizes = sizes[np.isfinite(sizes)]
    return 1.08 * float(np.percentile(sizes, 99.9)) if len(sizes) else 1.0


def _scatter(
    figure: "Figure",
    place: tuple[float, float, float, float],
    points: np.ndarray,
    limit: float,
    values: np.ndarray | None,
) -> "Axes":
    """Adds a square plot of points [N, 2] that reaches `limit` from 0 on each side."""
    axes = figure.add_axes(place)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_color(PALE)
    colours: dict[str, Any] = {"color": BLUE} if values is None else {"c": values, "cmap": "turbo"}
    axes.scatter(points[:, 0], points[:, 1], s=5, alpha=0.75, linewidths=0, **colours)
    return axes
