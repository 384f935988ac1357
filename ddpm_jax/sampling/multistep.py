"""Linear multistep solvers of the probability-flow ODE, and of its SDE.

The next x is a sum of x_t, the last few predictions of x_0 or of eps, and noise:

    x' = a x_t + c_0 D_0 + c_1 D_1 + ... + s noise

A solver is a formula for these coefficients. It sees the half-logarithms of the signal-to-noise
ratio, lambda = log(alpha / sigma), of the target and of the K last levels, newest first. Tables of
coefficients are computed in float64, once, for all steps of a chain and all orders up to K: a chain
begins with the first order, and those of DPM-Solver end with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.predictions import eps_from_xstart
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.diffusion.shapes import Array, Float, Int
from ddpm_jax.diffusion.spacing import log_ratio
from ddpm_jax.sampling.guidance import GuidedDenoiser
from ddpm_jax.sampling.heun import heun
from ddpm_jax.sampling.sampler import Step


class Update(NamedTuple):
    """Coefficients of one step: of x, of the K last predictions, of noise, of a new prediction."""

    x: float
    predictions: np.ndarray  # [K], newest first
    noise: float = 0.0
    new: float = 0.0  # of the prediction at the target, in a corrector


Formula = Callable[[np.ndarray], Update]  # of lambda [1 + K]: the target's, then newest first


def dpmpp(levels: Float[np.ndarray, " levels"]) -> Update:
    """DPM-Solver++ multistep (Lu et al. 2022, algorithm 2 and appendix A), of x_0; K is 1 to 3."""
    target, now, *_ = levels
    h = target - now
    first = -_alpha(target) * np.expm1(-h)  # eq. 8 integrates D_0 exactly
    weights = first * np.eye(1, len(levels) - 1)[0]
    differences = _divided_differences(levels[1:], h)
    if len(levels) == 3:
        weights += first / 2 * differences[0]
    elif len(levels) == 4:
        phi = np.expm1(-h)
        weights += _alpha(target) * (phi / h + 1) * differences[0]
        # The authors' code and diffusers leave out the 2, and so are of second order only.
        weights -= 2 * _alpha(target) * ((phi + h) / h**2 - 0.5) * differences[1]
    return Update(_sigma(target) / _sigma(now), weights)


def dpmpp_sde(levels: Float[np.ndarray, " levels"]) -> Update:
    """SDE-DPM-Solver++ multistep (Lu et al. 2022, appendix), of x_0; K is 1 or 2."""
    target, now, *_ = levels
    h = target - now
    first = -_alpha(target) * np.expm1(-2 * h)
    weights = first * np.eye(1, len(levels) - 1)[0]
    if len(levels) == 3:
        weights += first / 2 * _divided_differences(levels[1:], h)[0]
    sigma = _sigma(target)
    return Update(sigma / _sigma(now) * np.exp(-h), weights, sigma * np.sqrt(-np.expm1(-2 * h)))


def unipc(levels: Float[np.ndarray, " levels"]) -> Update:
    """UniP (Zhao et al. 2023, eq. 3), B(h) = e^h - 1, of x_0."""
    ratios, matrix, right = _unipc_system(levels)
    earlier = len(ratios) - 1
    # With one earlier prediction the paper takes 1/2, which makes the order independent of B.
    rho = np.array([0.5]) if earlier == 1 else np.linalg.solve(matrix[:-1, :-1], right[:-1])
    return _unipc_update(levels, ratios, rho)


def unipc_corrector(levels: Float[np.ndarray, " levels"]) -> Update:
    """UniC (Zhao et al. 2023, eq. 9): the same step again, with the prediction at its target."""
    ratios, matrix, right = _unipc_system(levels)
    rho = np.array([0.5]) if len(ratios) == 1 else np.linalg.solve(matrix, right)
    return _unipc_update(levels, ratios, rho)


def _unipc_system(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """r_k, the matrix R and the vector b / B(h) of eq. 5, for predictions of x_0."""
    target, now, *earlier = levels
    h = target - now
    ratios = np.append((np.array(earlier) - now) / h, 1.0)
    order = np.arange(1, len(ratios) + 1)
    matrix = np.vander(ratios, increasing=True).T
    phi, factorial, right = np.expm1(-h) / -h - 1, 1.0, []
    for k in order:
        right.append(phi * factorial / np.expm1(-h))
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    return ratios, matrix, np.array(right)


def _unipc_update(levels: np.ndarray, ratios: np.ndarray, rho: np.ndarray) -> Update:
    """The step of first order, and rho_k of each (D_k - D_0) / r_k; the target is the last k."""
    target, now = levels[:2]
    first = -_alpha(target) * np.expm1(now - target)
    scaled = first * rho / ratios[: len(rho)]
    weights = np.append(first - scaled.sum(), scaled)
    new = weights[len(levels) - 1] if len(weights) == len(levels) else 0.0
    return Update(_sigma(target) / _sigma(now), weights[: len(levels) - 1], new=new)


def deis(levels: Float[np.ndarray, " levels"]) -> Update:
    """tAB-DEIS (Zhang and Chen 2023, eq. 15), of eps: a polynomial in log(sigma / alpha)."""
    target, now, *_ = levels
    if np.isinf(target):
        return _ddim(target, now, np.ones(1))
    nodes, weights = np.polynomial.legendre.leggauss(32)
    log_rho = -now + (now - target) * (nodes + 1) / 2
    integrals = [
        (now - target) / 2 * np.sum(weights * _lagrange(-levels[1:], k, log_rho) * np.exp(log_rho))
        for k in range(len(levels) - 1)
    ]
    return Update(_alpha(target) / _alpha(now), _alpha(target) * np.array(integrals))


ADAMS_BASHFORTH = (
    np.array([1.0]),
    np.array([3, -1]) / 2,
    np.array([23, -16, 5]) / 12,
    np.array([55, -59, 37, -9]) / 24,
)


def plms(levels: Float[np.ndarray, " levels"]) -> Update:
    """PLMS (Liu et al. 2022, eqs. 11 and 12), of eps; for equal steps of t."""
    return _ddim(levels[0], levels[1], ADAMS_BASHFORTH[len(levels) - 2])


def _ddim(target: float, now: float, mix: np.ndarray) -> Update:
    """DDIM's step with a mix of predictions of eps."""
    scale = _alpha(target) / _alpha(now)
    return Update(scale, (_sigma(target) - scale * _sigma(now)) * mix)


def _of_xstart(update: Update, now: float) -> Update:
    """The same step of eps, with x_t = alpha x_0 + sigma D_0 put in.

    For float32: a x_t and c_0 D_0 are far larger than their sum where alpha is near 0.
    """
    weights = update.predictions.copy()
    weights[0] += update.x * _sigma(now)
    return update._replace(x=update.x * _alpha(now), predictions=weights)


class History(NamedTuple):
    """The memory: how many predictions there are yet, the last of them, and the last x."""

    known: Int[Array, ""]
    predictions: tuple[Array, ...]  # newest first
    x: Array | tuple[()]


@dataclass(frozen=True)
class Multistep:
    """A solver as a sampler: its `init` and its `step`.

    Args:
      formula, order: the coefficients of a step, from up to `order` predictions.
      predicts: what the formula mixes, "x_start" or "eps".
      corrector: coefficients of the same step once the prediction at its target is known.
      ends_low: the last steps are of order 1, 2, ..., counted from the end.
      begins_with_heun: the first step is Heun's instead of the first order's.
    """

    formula: Formula
    order: int
    predicts: str = "x_start"
    corrector: Formula | None = None
    ends_low: bool = True
    begins_with_heun: bool = False

    def init(self, x_t: Float[Array, "batch *shape"]) -> History:
        """No predictions yet. Places are filled with x_t, and so lie on its devices."""
        kept = self.order if self.corrector else self.order - 1
        last = x_t.copy() if self.corrector else ()
        return History(jnp.zeros((), jnp.int32), tuple(x_t.copy() for _ in range(kept)), last)

    def step(
        self,
        diffusion: Diffusion,
        denoise: GuidedDenoiser,
        x_t: Float[Array, "batch *shape"],
        t: Int[Array, " batch"],
        noise: Float[Array, "batch *shape"],
        memory: History,
        eta: float,
    ) -> tuple[Step, History]:
        schedule = diffusion.schedule
        pred_xstart = denoise(x_t, t).pred_xstart
        new = pred_xstart
        if self.predicts == "eps":
            new = eps_from_xstart(schedule, x_t, t, pred_xstart)

        if self.corrector is not None:
            order = self._order(memory.known, t + 1)
            tables = self._tables(self.corrector, schedule, arrives=True)
            assert not isinstance(memory.x, tuple)  # as `init` sees to
            corrected = tables.mixed(order, t, memory.x, memory.predictions, new=new)
            x_t = jnp.where(memory.known > 0, corrected, x_t)

        predictions = (new, *memory.predictions)
        order = self._order(memory.known + 1, t)
        tables = self._tables(self.formula, schedule)
        base = x_t if self.predicts == "x_start" else pred_xstart
        sample = tables.mixed(order, t, base, predictions[: self.order], noise)
        if self.begins_with_heun:
            first = (memory.known == 0) & jnp.all(t > 0)
            sample = jax.lax.cond(
                first,
                lambda: heun(diffusion, denoise, x_t, t, noise, (), eta)[0].sample,
                lambda: sample,
            )
        kept = predictions[: len(memory.predictions)]
        memory = History(memory.known + 1, kept, x_t if self.corrector else ())
        return Step(sample, pred_xstart), memory

    def _order(self, known: Array, t: Array) -> Array:
        """The order of the step from the index t: as many predictions, and steps, as there are."""
        order = jnp.minimum(known, self.order)
        return jnp.minimum(order, t + 1) if self.ends_low else jnp.broadcast_to(order, t.shape)

    def _tables(
        self, formula: Formula, schedule: NoiseSchedule, arrives: bool = False
    ) -> "_Tables":
        """The coefficients of every step, by the index that it starts from, or `arrives` at."""
        levels = -log_ratio(schedule)
        after = np.append(np.inf, levels)  # after[t] is the level that a step from t goes to
        count = schedule.num_timesteps
        tables = _Tables.empty(self.order, count)
        for start in range(count):
            for order in range(1, min(self.order, count - start) + 1):
                if (self.ends_low and order > start + 1) or (arrives and start == 0):
                    continue
                at = start - 1 if arrives else start
                update = formula(np.append(after[start], levels[start : start + order]))
                if self.predicts == "eps" and not arrives:
                    update = _of_xstart(update, levels[start])
                tables.x[order - 1, at] = update.x
                tables.predictions[order - 1, at, :order] = update.predictions
                tables.noise[order - 1, at] = update.noise
                tables.new[order - 1, at] = update.new
        return tables


class _Tables(NamedTuple):
    """Coefficients by order and t: float64 [K, T], of predictions [K, T, K]."""

    x: np.ndarray
    predictions: np.ndarray
    noise: np.ndarray
    new: np.ndarray

    @classmethod
    def empty(cls, order: int, count: int) -> "_Tables":
        shape = (order, count)
        return cls(*(np.zeros(each) for each in (shape, (*shape, order), shape, shape)))

    def mixed(
        self,
        order: Array,
        t: Array,
        x: Array,
        predictions: tuple[Array, ...],
        noise: Array | None = None,
        new: Array | None = None,
    ) -> Array:
        def at(table: np.ndarray) -> Any:
            values = jnp.asarray(table, jnp.float32)[order - 1, t]
            return values.reshape(values.shape + (1,) * (x.ndim - 1))

        total = at(self.x) * x
        for k, prediction in enumerate(predictions):
            total += at(self.predictions[..., k]) * prediction
        if noise is not None and self.noise.any():
            total += at(self.noise) * noise
        return total if new is None else total + at(self.new) * new


pndm = Multistep(plms, 4, predicts="eps", ends_low=False, begins_with_heun=True)


def _alpha(level: float) -> float:
    """alpha at lambda = log(alpha / sigma)."""
    return 1 / np.sqrt(1 + np.exp(-2 * level))


def _sigma(level: float) -> float:
    return 1 / np.sqrt(1 + np.exp(2 * level)) if np.isfinite(level) else 0.0


def _divided_differences(known: np.ndarray, h: float) -> list[np.ndarray]:
    """D1 and D2 of two or three predictions at these lambda, as coefficients of the predictions.

    They are h and h^2 / 2 times the first and second derivatives with respect to lambda.
    """
    if len(known) == 1:
        return []
    ratios = -np.diff(known) / h
    first = np.zeros((len(ratios), len(known)))
    for k, ratio in enumerate(ratios):
        first[k, k : k + 2] = np.array([1, -1]) / ratio
    if len(ratios) == 1:
        return [first[0]]
    second = (first[0] - first[1]) / ratios.sum()
    return [first[0] + ratios[0] * second, second]


def _lagrange(known: np.ndarray, k: int, at: np.ndarray) -> np.ndarray:
    """The polynomial that is 1 at known[k] and 0 at the others, evaluated."""
    others = np.delete(known, k)
    return np.prod((at - others[:, None]) / (known[k] - others[:, None]), axis=0)
