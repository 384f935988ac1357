"""The forward process, the losses and the ancestral step in PyTorch, for torch_peers.py.

The tables are those of our schedules; images are [B, C, H, W]. Equations: DDPM (Ho et al. 2020),
and Improved DDPM for the learned range of variances.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ddpm_jax.diffusion.process import Diffusion


class Tables:
    """A schedule's tables as float32 tensors."""

    def __init__(self, diffusion: Diffusion, device: torch.device):
        schedule = diffusion.schedule
        assert diffusion.prediction == "eps"
        assert diffusion.variance in ("fixed_large", "learned_range"), diffusion.variance
        self.num_timesteps = schedule.num_timesteps
        self.timestep_map = [int(t) for t in schedule.timestep_map]
        self.learned = diffusion.variance == "learned_range"
        large = np.log(np.append(schedule.posterior_variance[1], schedule.betas[1:]))
        tables = {
            "signal": schedule.sqrt_alphas_cumprod,
            "sigma": schedule.sqrt_one_minus_alphas_cumprod,
            "recip": schedule.sqrt_recip_alphas_cumprod,
            "recipm1": schedule.sqrt_recipm1_alphas_cumprod,
            "mean_start": schedule.posterior_mean_coef1,
            "mean_t": schedule.posterior_mean_coef2,
            "log_min": schedule.posterior_log_variance_clipped,
            "log_max": np.log(schedule.betas) if self.learned else large,
        }
        self._tables = {
            name: torch.tensor(table, dtype=torch.float32, device=device)
            for name, table in tables.items()
        }

    def at(self, name: str, t: Tensor | int) -> Tensor:
        return self._tables[name][t].reshape(-1, 1, 1, 1)

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return self.at("signal", t) * x_start + self.at("sigma", t) * noise

    def mean(self, x_start: Tensor, x_t: Tensor, t: Tensor | int) -> Tensor:
        """Of the posterior, eq. 7."""
        return self.at("mean_start", t) * x_start + self.at("mean_t", t) * x_t

    def reverse(
        self, output: Tensor, x_t: Tensor, t: Tensor | int, clip: bool
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(x_{t-1} | x_t), eq. 1."""
        log_variance = self.at("log_max", t)
        if self.learned:
            output, learned = output.chunk(2, dim=1)
            fraction = (learned + 1) / 2
            log_variance = fraction * log_variance + (1 - fraction) * self.at("log_min", t)
        x_start = self.at("recip", t) * x_t - self.at("recipm1", t) * output
        return self.mean(x_start.clamp(-1, 1) if clip else x_start, x_t, t), log_variance


def losses(tables: Tables, output: Tensor, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """L_simple, plus a term of L_vlb where the variance is learned: [B]."""
    if not tables.learned:
        return (noise - output).square().mean((1, 2, 3))
    prediction, variance = output.chunk(2, dim=1)
    x_t = tables.q_sample(x_start, t, noise)
    still = torch.cat([prediction.detach(), variance], dim=1)
    mean, log_variance = tables.reverse(still, x_t, t, clip=False)
    true_mean, true_log = tables.mean(x_start, x_t, t), tables.at("log_min", t)
    ratio = true_log - log_variance
    distance = (true_mean - mean).square() * torch.exp(-log_variance)
    kl = (0.5 * (torch.expm1(ratio) - ratio + distance)).mean((1, 2, 3))
    nll = -_log_likelihood(x_start, mean, 0.5 * log_variance).mean((1, 2, 3))
    vlb = torch.where(t == 0, nll, kl) / math.log(2)
    return (noise - prediction).square().mean((1, 2, 3)) + vlb


def _log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Of the discretised Gaussian, eq. 13."""

    def cdf(x: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    above = cdf(torch.exp(-log_scale) * (x - mean + 1 / 255))
    below = cdf(torch.exp(-log_scale) * (x - mean - 1 / 255))
    inner = torch.where(x > 0.999, 1 - below, above - below)
    return torch.where(x < -0.999, above, inner).clamp(min=1e-12).log()


def reverse_step(
    tables: Tables, output: Tensor, x_t: Tensor, t: int, gradient: Tensor | None
) -> Tensor:
    """The ancestral step (algorithm 2), guided by a gradient of log p(y | x_t) if there is one."""
    mean, log_variance = tables.reverse(output, x_t, t, clip=True)
    if gradient is not None:
        mean = mean + log_variance.exp() * gradient
    noise = torch.randn_like(x_t) if t else torch.zeros_like(x_t)
    return mean + torch.exp(0.5 * log_variance) * noise
