"""The bias of a Frechet distance by the number of samples, beside theory: a picture for the docs.

    python -m benchmarks.fid_bias --out docs/fid_bias.png

Samples and reference are the same Gaussian in F dimensions, so that the distance for infinitely
many samples is 0. To first order its mean over N samples is (F + F (F + 1) / 4) / N.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddpm_jax.config import command_line
from ddpm_jax.evaluation.frechet import frechet_distance
from ddpm_jax.evaluation.statistics import Statistics, fit
from ddpm_jax.visualization.figures import BLUE, INK, PALE, new_figure, save_figure


@dataclass(frozen=True)
class Args:
    out: Path = Path("fid_bias.png")
    size: int = 64  # features
    draws: int = 20  # sets of samples at each N


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__)
    rng, size = np.random.default_rng(0), args.size
    truth = Statistics(np.zeros(size), np.eye(size))
    numbers = np.array([32, 64, 128, 256, 512, 1024, 2048, 4096, 8192])
    found = np.array(
        [
            [
                frechet_distance(fit(rng.standard_normal((n, size))), truth)
                for _ in range(args.draws)
            ]
            for n in numbers
        ]
    )
    theory = (size + size * (size + 1) / 4) / numbers
    for n, mean, expected in zip(numbers, found.mean(1), theory, strict=True):
        print(f"N = {n}: {mean:.4f}, first order {expected:.4f}")

    figure = new_figure(6, 4)
    axes = figure.add_axes((0.13, 0.14, 0.84, 0.82))
    axes.plot(numbers, theory, color=INK, label=f"theory to first order, F = {size}")
    axes.plot(
        numbers, found.mean(1), "o", color=BLUE, label=f"mean of {args.draws} sets of samples"
    )
    axes.axvline(size, color=INK, linestyle=":", linewidth=1, label="N = F")
    axes.set(xscale="log", yscale="log", xlabel="samples N", ylabel="Frechet distance")
    axes.grid(color=PALE, linewidth=0.6, alpha=0.6)
    axes.legend(frameon=False)
    save_figure(figure, args.out)


if __name__ == "__main__":
    main()
