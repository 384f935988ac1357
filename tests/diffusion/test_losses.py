"""The terms of every loss: what each trains, how they add up, and their weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.likelihood import variational_bound_term
from ddpm_jax.diffusion.losses import LOSSES, WeightingSettings, timestep_weights, training_losses
from ddpm_jax.diffusion.predictions import PREDICTIONS, xstart_from_eps
from ddpm_jax.diffusion.process import Diffusion, prediction_target, q_sample
from ddpm_jax.diffusion.schedules import make_schedule, named_betas, rescaled
from ddpm_jax.diffusion.spacing import respace

LEARNED = ["learned", "learned_range"]
SCHEDULE = rescaled(make_schedule(named_betas("cosine", 200)))
T_STEPS = jnp.array([0, 10, 100, 199])
X_START = jax.random.uniform(jax.random.key(0), (4, 5, 5, 2), minval=-1)
NOISE = jax.random.normal(jax.random.key(1), X_START.shape)
X_T = q_sample(SCHEDULE, X_START, T_STEPS, NOISE)
# A network's output: of the size of its target, and no more right than at initialisation.
OUTPUT, LEARNED_HALF = 0.3 * jax.random.normal(jax.random.key(2), (2, *X_START.shape))


def losses_at(diffusion, output, loss="mse", weights=None):
    return training_losses(diffusion, lambda x, t: output, X_START, T_STEPS, NOISE, loss, weights)


def with_variance(prediction, learned=LEARNED_HALF):
    return jnp.concatenate([prediction, learned], axis=-1)


@pytest.mark.parametrize("loss", ["mse", "l1"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_network_has_no_simple_loss(prediction, loss):
    diffusion = Diffusion(SCHEDULE, prediction)
    target = prediction_target(diffusion, X_START, X_T, T_STEPS, NOISE)
    np.testing.assert_array_equal(losses_at(diffusion, target, loss).loss, np.zeros(4))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_network_with_the_posteriors_variance_has_no_divergence(prediction):
    diffusion = Diffusion(SCHEDULE, prediction, "fixed_small")
    target = prediction_target(diffusion, X_START, X_T, T_STEPS, NOISE)
    loss = losses_at(diffusion, target, "kl").loss
    np.testing.assert_allclose(loss[1:], 0, atol=1e-4)
    assert loss[0] > 0  # what the decoder rounds off is not free


@pytest.mark.parametrize("loss, want", [("mse", [0.25, 1, 4, 9]), ("l1", [0.5, 1, 2, 3])])
def test_each_example_has_the_mean_distance_of_its_own(loss, want):
    offset = jnp.array([0.5, -1, 2, -3])[:, None, None, None]
    losses = losses_at(Diffusion(SCHEDULE), NOISE + offset, loss)
    np.testing.assert_allclose(losses.loss, want, rtol=1e-5)
    assert losses.vb is None


@pytest.mark.parametrize("loss", LOSSES)
def test_the_network_is_asked_once_at_x_t_and_its_own_timesteps(loss):
    calls = []

    def denoise(x, t):
        calls.append((x, t))
        return with_variance(x)

    training_losses(
        Diffusion(SCHEDULE, variance="learned_range"), denoise, X_START, T_STEPS, NOISE, loss
    )
    ((x, t),) = calls
    np.testing.assert_array_equal(x, X_T)
    np.testing.assert_array_equal(t, T_STEPS * 5)


def test_points_have_a_loss_as_images_do():
    x, noise = X_START[:, 0, 0], NOISE[:, 0, 0]
    losses = training_losses(Diffusion(SCHEDULE), lambda x, t: noise + 1, x, T_STEPS, noise)
    np.testing.assert_allclose(losses.loss, np.ones(4), rtol=1e-5)


@pytest.mark.parametrize("variance", ["fixed_large", *LEARNED])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_float32_and_finite_when_the_network_is_bfloat16(loss, variance):
    output = OUTPUT if variance == "fixed_large" else with_variance(OUTPUT)
    losses = losses_at(Diffusion(SCHEDULE, "eps", variance), output.astype(jnp.bfloat16), loss)
    for part in losses:
        if part is not None:
            assert part.shape == (4,) and part.dtype == jnp.float32
            assert np.all(np.isfinite(part))


@pytest.mark.parametrize("loss, factor", [("mse", 1), ("l1", 1), ("rescaled_mse", 50 / 1000)])
@pytest.mark.parametrize("variance", LEARNED)
def test_the_hybrid_is_the_simple_loss_and_the_bound_of_the_respaced_chain(variance, loss, factor):
    schedule, t = respace(SCHEDULE, "50"), jnp.array([0, 10, 30, 49])
    diffusion, output = Diffusion(schedule, "eps", variance), with_variance(OUTPUT)
    losses = training_losses(diffusion, lambda *_: output, X_START, t, NOISE, loss)
    x_t = q_sample(schedule, X_START, t, NOISE)
    bits, _ = variational_bound_term(diffusion, output, X_START, x_t, t, clip=False)
    np.testing.assert_allclose(losses.vb, factor * bits, rtol=1e-5)
    error = (NOISE - OUTPUT).reshape(4, -1)
    simple = np.mean(np.abs(error) if loss == "l1" else np.square(error), axis=1)
    np.testing.assert_allclose(losses.loss, simple + losses.vb, rtol=1e-5)
    if loss != "l1":
        np.testing.assert_allclose(losses.mse, simple, rtol=1e-5)


def test_the_divergence_is_for_one_timestep_or_for_all():
    diffusion = Diffusion(SCHEDULE, "eps", "learned_range")
    one, all_steps = (losses_at(diffusion, with_variance(OUTPUT), k) for k in ("kl", "rescaled_kl"))
    np.testing.assert_allclose(all_steps.loss, 200 * one.loss, rtol=1e-6)
    assert one[1:] == all_steps[1:] == (None, None)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", LEARNED)
def test_the_bound_in_the_hybrid_trains_the_variance_and_leaves_the_mean_alone(
    variance, prediction
):
    diffusion = Diffusion(SCHEDULE, prediction, variance)

    def gradients(loss):
        def mean_loss(mean_half, variance_half):
            return losses_at(diffusion, with_variance(mean_half, variance_half), loss).loss.mean()

        return jax.grad(mean_loss, argnums=(0, 1))(OUTPUT, LEARNED_HALF)

    def simple(mean_half):
        return losses_at(Diffusion(SCHEDULE, prediction), mean_half).loss.mean()

    for_mean, for_variance = gradients("mse")
    np.testing.assert_allclose(for_mean, jax.grad(simple)(OUTPUT), rtol=1e-6)
    kl_for_mean, kl_for_variance = gradients("kl")
    np.testing.assert_allclose(for_variance, kl_for_variance, rtol=1e-6)
    assert np.all(np.any(kl_for_mean != 0, axis=(1, 2, 3)))


def predicting(prediction, eps):
    """What a network of that prediction returns where one of eps returns `eps`."""
    x_start = xstart_from_eps(SCHEDULE, X_T, T_STEPS, eps)
    return prediction_target(Diffusion(SCHEDULE, prediction), x_start, X_T, T_STEPS, eps)


@pytest.mark.parametrize("loss", ["mse", "l1"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    "no_weighting",
    [("min_snr", WeightingSettings(min_snr_gamma=1e9)), ("p2", WeightingSettings(p2_gamma=0.0))],
    ids=["min_snr", "p2"],
)
def test_without_bounds_the_weightings_are_the_eps_loss_of_every_prediction(
    no_weighting, prediction, loss
):
    weighting, settings = no_weighting
    diffusion = Diffusion(SCHEDULE, prediction)
    weights = timestep_weights(diffusion, weighting, loss, settings)
    got = losses_at(diffusion, predicting(prediction, OUTPUT), loss, weights).loss
    want = losses_at(Diffusion(SCHEDULE, "eps"), OUTPUT, loss).loss
    # Near T-1 x_0 is a small difference of large numbers, near 0 the noise is.
    np.testing.assert_allclose(got, want, rtol=2e-4)


def test_weights_are_those_of_their_papers():
    snr = SCHEDULE.alphas_cumprod / (1 - SCHEDULE.alphas_cumprod)
    gamma = 5.0

    def weights(prediction, weighting, **constants):
        settings = WeightingSettings(**constants)
        return timestep_weights(Diffusion(SCHEDULE, prediction), weighting, "mse", settings)

    # Hang et al. 2023.
    min_snr = {"weighting": "min_snr", "min_snr_gamma": gamma}
    clipped = np.minimum(snr, gamma)
    np.testing.assert_allclose(weights("x_start", **min_snr), clipped)
    np.testing.assert_allclose(weights("eps", **min_snr), clipped / snr)
    np.testing.assert_allclose(weights("v", **min_snr), clipped / (snr + 1))
    # Choi et al. 2022.
    p2 = weights("eps", weighting="p2", p2_gamma=0.5, p2_k=2.0)
    np.testing.assert_allclose(p2, 1 / (2 + snr) ** 0.5)
    assert weights("eps", weighting="none") is None
    with pytest.raises(ValueError, match="unknown weighting: snr"):
        weights("eps", weighting="snr")


def test_weights_are_of_the_simple_loss_alone():
    diffusion, output = Diffusion(SCHEDULE, "eps", "learned_range"), with_variance(OUTPUT)
    weights = np.linspace(1, 3, 200)
    plain, weighted = (losses_at(diffusion, output, "mse", w) for w in (None, weights))
    np.testing.assert_allclose(weighted.mse, plain.mse * weights[T_STEPS], rtol=1e-6)
    np.testing.assert_array_equal(weighted.vb, plain.vb)
    np.testing.assert_allclose(weighted.loss, weighted.mse + weighted.vb, rtol=1e-6)


def test_an_unknown_loss_is_a_value_error():
    with pytest.raises(ValueError, match="unknown loss: l2"):
        losses_at(Diffusion(SCHEDULE), OUTPUT, "l2")
