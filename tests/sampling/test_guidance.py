"""Guidance where theory says what it must reach: on mixtures of Gaussians p(y | x_t) is known."""

from functools import cache, partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.diffusion.schedules import make_schedule, named_betas, rescaled
from ddpm_jax.diffusion.spacing import respace
from ddpm_jax.sampling.guidance import (
    class_log_prob,
    classifier_free,
    guidance_gradient,
    summed,
    within,
)
from ddpm_jax.sampling.loop import ChainOptions, make_sampling_loop
from ddpm_jax.sampling.samplers import SAMPLERS
from tests.sampling.steps import alpha_bar_at
from tests.sampling.test_loop import compilations
from tests.slow import slow_but

FULL = make_schedule(named_betas("linear", 1000))
FREE = ChainOptions(clip=False)


class Mixture(NamedTuple):
    """K Gaussians in the plane, each of a class; all functions are of x_t on the full chain."""

    weights: np.ndarray  # [K]
    means: np.ndarray  # [K, 2]
    bases: np.ndarray  # [K, 2, 2], a principal axis in each column
    deviations: np.ndarray  # [K, 2], along these
    classes: np.ndarray  # int [K]

    def log_joint(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """log p(x_t, k), [B, K]: Gaussian k became one of covariance a S_k + (1 - a) I."""
        a = alpha_bar_at(FULL, t)[:, None, None]
        along = jnp.einsum("bkd,kde->bke", x[:, None] - jnp.sqrt(a) * self.means, self.bases)
        variance = a * self.deviations**2 + 1 - a
        terms = along**2 / variance + jnp.log(2 * jnp.pi * variance)
        return jnp.log(self.weights) - terms.sum(axis=-1) / 2

    def log_density(self, x: jax.Array, t: jax.Array, labels: jax.Array) -> jax.Array:
        """log p(x_t, y), [B]; log p(x_t) where y is -1."""
        asked = (labels[:, None] < 0) | (labels[:, None] == self.classes)
        return jax.nn.logsumexp(jnp.where(asked, self.log_joint(x, t), -jnp.inf), axis=1)

    def classify(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """log p(x_t, y) for each class, [B, classes]: a perfect classifier's logits."""
        each = range(self.classes.max() + 1)
        return jnp.stack([self.log_density(x, t, jnp.full(len(x), y)) for y in each], axis=1)

    def eps(self, x: jax.Array, t: jax.Array, labels: jax.Array) -> jax.Array:
        """E[noise | x_t, y]: what a perfect network predicts."""
        score = jax.grad(lambda x: self.log_density(x, t, labels).sum())(x)
        return -jnp.sqrt(1 - alpha_bar_at(FULL, t))[:, None] * score

    def moments(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of p(x_0 | y)."""
        p = self.weights * (self.classes == label)
        p = p / p.sum()
        mean = p @ self.means
        within = np.einsum("kde,ke,kfe->kdf", self.bases, self.deviations**2, self.bases)
        apart = np.einsum("kd,kf->kdf", self.means - mean, self.means - mean)
        return mean, np.einsum("k,kdf->df", p, within + apart)


def rotations(angles: list[float]) -> np.ndarray:
    c, s = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], 1)


# Four components of three classes, close enough for their noisy versions to overlap.
FOUR = Mixture(
    weights=np.array([0.2, 0.3, 0.3, 0.2]),
    means=np.array([[0.5, 0.4], [-0.3, 0.6], [-0.4, -0.5], [0.5, -0.3]]),
    bases=rotations([0.5, 0.0, 1.0, 0.0]),
    deviations=np.array([[0.2, 0.1], [0.15, 0.15], [0.1, 0.25], [0.2, 0.2]]),
    classes=np.array([0, 0, 1, 2]),
)
# A product of two mixtures in one dimension: where x_t stands says nothing about y_t.
LEFT_OR_RIGHT = Mixture(
    weights=np.outer([0.3, 0.7], [0.6, 0.4]).ravel(),
    means=np.array([[-0.5, -0.4], [-0.5, 0.4], [0.5, -0.4], [0.5, 0.4]]),
    bases=rotations([0.0] * 4),
    deviations=np.array([[0.3, 0.2], [0.3, 0.25], [0.2, 0.2], [0.2, 0.25]]),
    classes=np.array([0, 0, 1, 1]),
)
DOWN_OR_UP = LEFT_OR_RIGHT._replace(classes=np.array([0, 1, 0, 1]))


# Networks and gradients as a chain has them; the condition is {"label", "scale", "free"}, each [B].
def conditional(params, x, t, condition):
    return FOUR.eps(x, t, condition["label"])


def unconditional(params, x, t, condition):
    return FOUR.eps(x, t, jnp.full(len(x), -1))


def free(params, x, t, condition):
    label = condition["label"]
    return classifier_free(FOUR.eps, label, jnp.full_like(label, -1), condition["free"], 2)(x, t)


def guide(params, x, t, condition):
    return guidance_gradient(class_log_prob(FOUR.classify, condition["label"]), condition["scale"])(
        x, t
    )


@cache
def sampler(name, apply, gradient=None, length="1000", options=FREE):
    diffusion = Diffusion(respace(FULL, length, SAMPLERS[name].spacing), training=FULL)
    return make_sampling_loop(diffusion, SAMPLERS[name], apply, (2,), options, gradient)


def draw(run, condition):
    return np.asarray(run({}, 0, np.arange(len(condition["label"])), condition).x, np.float64)


def condition_of(count, scale=1.0, free=1.0):
    full = partial(np.full, count, dtype=np.float32)
    return {"label": np.arange(count) % 3, "scale": full(scale), "free": full(free)}


def check_moments(x, mean, covariance):
    """Within 4 standard errors, those of the sample."""
    squares = np.einsum("nd,nf->ndf", x - x.mean(axis=0), x - x.mean(axis=0))
    root = np.sqrt(len(x))
    assert np.all(np.abs(x.mean(axis=0) - mean) < 4 * x.std(axis=0) / root)
    assert np.all(np.abs(squares.mean(axis=0) - covariance) < 4 * squares.std(axis=0) / root)


BY_CLASSIFIER, BY_ITSELF = (unconditional, guide), (free,)


@pytest.mark.parametrize("networks", [BY_CLASSIFIER, BY_ITSELF], ids=["classifier", "free"])
@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("ddpm", "1000"),
        pytest.param("ddim", "1000", marks=pytest.mark.slow),
        pytest.param("edm", "100", marks=pytest.mark.slow),
        ("dpmpp_2m_sde", "100"),
        ("unipc", "50"),
    ],
)
def test_guidance_at_scale_1_reaches_the_conditional_mean_and_covariance(name, length, networks):
    condition = condition_of(4500)
    x = draw(sampler(name, *networks, length=length), condition)
    for label in range(3):
        check_moments(x[condition["label"] == label], *FOUR.moments(label))


def test_two_conditions_at_once_reach_the_moments_of_both():
    def apply(params, x, t, condition):
        return LEFT_OR_RIGHT.eps(x, t, jnp.full(len(x), -1))

    def gradient(params, x, t, condition):
        conditions = [(LEFT_OR_RIGHT, condition["label"]), (DOWN_OR_UP, condition["second"])]
        log_probs = [class_log_prob(mixture.classify, label) for mixture, label in conditions]
        return summed(*(guidance_gradient(log_prob, 1.0) for log_prob in log_probs))(x, t)

    condition = {"label": np.arange(4000) % 2, "second": np.arange(4000) // 2 % 2}
    x = draw(sampler("ddpm", apply, gradient), condition)
    for k in range(4):
        chosen = (condition["label"] == k // 2) & (condition["second"] == k % 2)
        spread = np.diag(LEFT_OR_RIGHT.deviations[k] ** 2)
        check_moments(x[chosen], LEFT_OR_RIGHT.means[k], spread)


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_any_log_probability_guides(name):
    """One Gaussian, and y = x_0 + noise of deviation 0.3: the posterior of x_0 is known.

    log p(y | x_t) follows from p(x_0 | x_t), a Gaussian too.
    """
    mean, spread, noise, y = jnp.array([0.2, -0.1]), 0.4**2, 0.3**2, jnp.array([0.6, 0.3])
    alpha_bar = jnp.asarray(FULL.alphas_cumprod, jnp.float32)

    def apply(params, x_t, t, condition):
        a = alpha_bar[t.astype(int)][:, None]
        return jnp.sqrt(1 - a) * (x_t - jnp.sqrt(a) * mean) / (a * spread + 1 - a)

    def log_prob(x_t, t):
        a = alpha_bar[t.astype(int)][:, None]
        gain = spread / (a * spread + 1 - a)
        x_start = mean + jnp.sqrt(a) * gain * (x_t - jnp.sqrt(a) * mean)
        return -((y - x_start) ** 2 / ((1 - a) * gain + noise)).sum(axis=-1) / 2

    def gradient(params, x_t, t, condition):
        return guidance_gradient(log_prob, 1.0)(x_t, t)

    x = draw(sampler(name, apply, gradient), {"label": np.zeros(2000)})
    weight = spread / (spread + noise)
    check_moments(x, mean + weight * (y - mean), (1 - weight) * spread * np.eye(2))


def same(one, other, tolerance=1e-5):
    assert np.abs(other).max() > 0.5
    np.testing.assert_allclose(one, other, atol=tolerance)


def half(apply, gradient=None):
    """A short chain, between DDIM and ancestral sampling."""
    return sampler("ddim", apply, gradient, "50", ChainOptions(eta=0.5, clip=False))


def test_both_kinds_of_guidance_are_one_and_their_scales_add_up():
    # By Bayes' rule eps(x_t, y) - eps(x_t) is -sqrt(1 - alpha_bar) grad log p(y | x_t).
    want = draw(half(unconditional, guide), condition_of(96, scale=2.5))
    same(draw(half(free), condition_of(96, free=2.5)), want, 2e-3)
    same(draw(half(free, guide), condition_of(96, scale=1.5, free=1.0)), want, 2e-3)
    same(draw(half(free, guide), condition_of(96, scale=0.5, free=2.0)), want, 2e-3)
    assert np.abs(draw(half(free), condition_of(96, free=2.0)) - want).mean() > 0.01


def test_classifier_free_guidance_is_the_network_at_1_and_knows_nothing_at_0():
    same(draw(half(free), condition_of(96, free=1.0)), draw(half(conditional), condition_of(96)))
    same(draw(half(free), condition_of(96, free=0.0)), draw(half(unconditional), condition_of(96)))


def test_a_greater_scale_makes_the_class_surer():
    condition = condition_of(1200)
    condition["scale"] = np.repeat([0, 0.5, 1, 4], 300)
    x = draw(half(unconditional, guide), condition)
    log_probs = jax.jit(class_log_prob(FOUR.classify, condition["label"]))(x, np.zeros(1200))
    sure = np.exp(log_probs).reshape(4, 300).mean(axis=1)
    assert np.all(np.diff(sure) > 0) and sure[0] < 0.4 and sure[3] > 0.98


def test_each_sample_has_a_scale_of_its_own_and_label_minus_1_none():
    run = half(unconditional, guide)
    none, two = draw(run, condition_of(96, scale=0.0)), draw(run, condition_of(96, scale=2.0))
    same(draw(half(unconditional), condition_of(96)), none)
    condition = condition_of(96, scale=2.0)
    condition["scale"][::2] = 0
    condition["label"][:48] = -1
    mixed = draw(run, condition)
    same(mixed[::2], none[::2])
    same(mixed[:48], none[:48])
    same(mixed[49::2], two[49::2])


def test_another_label_seed_or_scale_compiles_nothing():
    run, index = half(free, guide), np.arange(32)
    with compilations() as first:
        run({}, 0, index, condition_of(32))
    with compilations() as later:
        run({}, 1, index + 5, condition_of(32, scale=3.0, free=0.5))
        run({}, 2, index, condition_of(32, scale=0.0) | {"label": np.full(32, -1)})
    assert first and not later


X = jax.random.normal(jax.random.key(0), (5, 2))
T = jnp.array([0.0, 100.0, 300.0, 301.0, 999.0])
LABELS = jnp.arange(5) % 3
NONE = jnp.full(5, -1)
LOG_PROB = class_log_prob(FOUR.classify, LABELS)


def test_a_scale_may_be_a_function_of_time():
    plain = jax.jit(guidance_gradient(LOG_PROB, 1.0))(X, T)
    rising = jax.jit(guidance_gradient(LOG_PROB, lambda t: t / 500))(X, T)
    np.testing.assert_allclose(rising, plain * T[:, None] / 500, rtol=1e-4, atol=1e-6)
    one, none = (jax.jit(FOUR.eps)(X, T, labels) for labels in (LABELS, NONE))
    for scale in (jnp.full(5, 3.0), lambda t: jnp.full(5, 3.0)):
        guided = jax.jit(classifier_free(FOUR.eps, LABELS, NONE, scale, 2))(X, T)
        np.testing.assert_allclose(guided, 3 * one - 2 * none, atol=1e-4)


def test_an_interval_holds_its_ends_and_leaves_the_rest_alone():
    scale = within((0.1, 0.3), 1000, jnp.arange(1.0, 6.0))
    np.testing.assert_array_equal(scale(T), [0, 2, 3, 0, 0])
    np.testing.assert_array_equal(within((0.1, 0.3), 1000, 7.0, outside=1.0)(T), [1, 7, 7, 1, 1])
    # The network of a rescaled chain of any length is condition 0..1000.
    condition = rescaled(make_schedule(named_betas("linear", 40))).model_timesteps
    on = within((0.2, 0.8), 1000, 1.0)(jnp.asarray(condition, jnp.float32))
    np.testing.assert_array_equal(on, (np.arange(40) >= 8) & (np.arange(40) <= 32))


def test_outside_its_interval_guidance_is_off_and_evaluates_nothing():
    seen = []

    def spied(function):
        def spy(x, *args):
            jax.debug.callback(lambda: seen.append(len(x)))
            return function(x, *args)

        return spy

    inside = partial(within, (0.25, 0.75), 1000)
    gradient = jax.jit(guidance_gradient(spied(LOG_PROB), inside(2.0)))
    eps = jax.jit(classifier_free(spied(FOUR.eps), LABELS, NONE, inside(2.0, outside=1.0), 2))
    for time, on in [(0, 0), (249, 0), (250, 1), (750, 1), (751, 0), (999, 0)]:
        t = jnp.full(5, time, jnp.float32)
        plain = 2 * on * jax.jit(guidance_gradient(LOG_PROB, 1.0))(X, t)
        np.testing.assert_allclose(gradient(X, t), plain, rtol=1e-4, atol=1e-5)
        one, none = (jax.jit(FOUR.eps)(X, t, labels) for labels in (LABELS, NONE))
        np.testing.assert_allclose(eps(X, t), one + on * (one - none), atol=1e-4)
        jax.effects_barrier()
        assert sorted(seen) == ([5, 10] if on else [5])
        seen.clear()


def test_a_learned_variance_stays_that_of_the_network_told_y():
    def denoise(x, t, labels):
        return jnp.concatenate([x * labels[:, None], x + labels[:, None]], axis=-1)

    guided = classifier_free(denoise, LABELS, NONE, 3.0, 2)(X, T)
    np.testing.assert_allclose(guided[:, :2], X * (3 * LABELS + 2)[:, None], rtol=1e-5)
    np.testing.assert_array_equal(guided[:, 2:], X + LABELS[:, None])


# The components of FOUR, closer together: 99.99 % of each lies in [-1, 1].
INSIDE = FOUR._replace(means=0.5 * FOUR.means, deviations=0.5 * FOUR.deviations)


@pytest.mark.parametrize(
    ("name", "schedule"),
    slow_but(
        [("ddpm", "cosine"), ("ddim", "linear")], product(["ddpm", "ddim"], ["linear", "cosine"])
    ),
)
def test_clipping_after_guidance_biases_nothing_inside_the_range(name, schedule):
    full = make_schedule(named_betas(schedule, 1000))
    alpha_bar = jnp.asarray(full.alphas_cumprod, jnp.float32)

    def log_joint(x, t):  # as Mixture.log_joint, on this schedule
        a = alpha_bar[t.astype(int)][:, None, None]
        along = jnp.einsum("bkd,kde->bke", x[:, None] - jnp.sqrt(a) * INSIDE.means, INSIDE.bases)
        variance = a * INSIDE.deviations**2 + 1 - a
        terms = along**2 / variance + jnp.log(2 * jnp.pi * variance)
        return jnp.log(INSIDE.weights) - terms.sum(axis=-1) / 2

    def apply(params, x, t, condition):
        score = jax.grad(lambda x: jax.nn.logsumexp(log_joint(x, t), axis=1).sum())(x)
        return -jnp.sqrt(1 - alpha_bar[t.astype(int)])[:, None] * score

    def classify(x, t):
        joint = log_joint(x, t)
        return jnp.stack(
            [jax.nn.logsumexp(joint[:, INSIDE.classes == y], axis=1) for y in range(3)], axis=1
        )

    def gradient(params, x, t, condition):
        return guidance_gradient(class_log_prob(classify, condition["label"]), 1.0)(x, t)

    loop = make_sampling_loop(
        Diffusion(full), SAMPLERS[name], apply, (2,), ChainOptions(clip=True), gradient
    )
    condition = condition_of(4500)
    x = draw(loop, condition)
    for label in range(3):
        check_moments(x[condition["label"] == label], *INSIDE.moments(label))


def test_the_guided_x_0_stays_in_range_at_any_scale_with_both_kinds_of_guidance():
    options = ChainOptions(clip=True)
    loop = sampler("ddim", free, guide, "50", options)
    x = draw(loop, condition_of(300, scale=50.0, free=8.0))
    assert np.abs(x).max() <= 1 + 1e-6
