"""Single steps of every sampler, with and without guidance, against the original code."""

from itertools import product

import numpy as np
import pytest

from ddpm_jax.diffusion.process import model_timesteps, p_mean_variance
from ddpm_jax.sampling.guidance import shift_mean, shift_score
from tests.parity.cases import classifier_gradient, diffusion_of, fake_model, schedule_of
from tests.parity.golden import load, to_nchw, to_nhwc
from tests.sampling.steps import one_reverse_ddim_step, one_step

NAMES = load("steps.npz").meta["diffusions"]


@pytest.fixture
def file(golden):
    return golden("steps.npz")


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def inputs(file, name):
    """x and noise in NHWC, and t."""
    x, noise = (to_nhwc(file.array(f"in/{name}/{key}")) for key in ("x", "noise"))
    return x, file.array(f"in/{name}/t"), noise


def check_grid(file, steps, axes, **keys):
    """`steps` runs over the product of `axes`; each of `keys` names a field of a step."""
    for field, key in keys.items():
        values = np.stack([to_nchw(getattr(step, field)) for step in steps])
        file.check(key, values.reshape(*map(len, axes), *values.shape[1:]))


def test_ancestral_steps_are_the_originals(file, name, inputs):
    x, t, noise = inputs
    gradient = classifier_gradient(file)
    axes = [file.meta[axis] for axis in ("mean", "var", "clip", "cond")]
    steps = [
        one_step(
            "ddpm",
            diffusion_of(file.meta["diffusions"][name], mean, var),
            fake_model(file, var),
            x,
            t,
            noise,
            clip=clip,
            gradient=gradient if cond else None,
            clip_guided=False,
        )
        for mean, var, clip, cond in product(*axes)
    ]
    prefix = f"out/{name}/p_sample"
    check_grid(file, steps, axes, sample=prefix, pred_xstart=f"{prefix}_pred_xstart")


def test_ddim_steps_are_the_originals(file, name, inputs):
    x, t, noise = inputs
    gradient = classifier_gradient(file)
    axes = [file.meta[axis] for axis in ("mean", "clip", "cond", "etas")]
    steps = [
        one_step(
            "ddim",
            diffusion_of(file.meta["diffusions"][name], mean, "FIXED_SMALL"),
            fake_model(file, "FIXED_SMALL"),
            x,
            t,
            noise,
            eta=eta,
            clip=clip,
            gradient=gradient if cond else None,
            clip_guided=False,
        )
        for mean, clip, cond, eta in product(*axes)
    ]
    prefix = f"out/{name}/ddim_sample"
    check_grid(file, steps, axes, sample=prefix, pred_xstart=f"{prefix}_pred_xstart")


def test_reverse_ddim_steps_are_the_originals(file, name, inputs):
    x, t, _ = inputs
    axes = [file.meta[axis] for axis in ("mean", "clip")]
    steps = [
        one_reverse_ddim_step(
            diffusion_of(file.meta["diffusions"][name], mean, "FIXED_SMALL"),
            fake_model(file, "FIXED_SMALL"),
            x,
            t,
            clip=clip,
        )
        for mean, clip in product(*axes)
    ]
    prefix = f"out/{name}/ddim_reverse"
    check_grid(file, steps, axes, sample=prefix, pred_xstart=f"{prefix}_pred_xstart")


def test_guidance_of_means_and_scores_is_the_originals(file, name, inputs):
    x, t, _ = inputs
    case = file.meta["diffusions"][name]
    model_t = model_timesteps(schedule_of(case), t)
    gradient = classifier_gradient(file)
    output = fake_model(file, "LEARNED_RANGE")(x, model_t)
    axes = [file.meta[axis] for axis in ("mean", "clip")]
    means, scores = [], []
    for mean, clip in product(*axes):
        diffusion = diffusion_of(case, mean, "LEARNED_RANGE")
        reverse = p_mean_variance(diffusion, output, x, t, clip)
        means.append(shift_mean(diffusion, reverse, x, t, gradient(x, model_t)))
        scores.append(shift_score(diffusion, reverse, x, t, gradient(x, model_t)))
    prefix = f"out/{name}/condition"
    check_grid(file, means, axes, mean=f"{prefix}_mean")
    check_grid(
        file,
        scores,
        axes,
        mean=f"{prefix}_score_mean",
        pred_xstart=f"{prefix}_score_pred_xstart",
    )
    file.check(f"out/{name}/cond_grad_raw_t", to_nchw(gradient(x, t.astype(np.float32))))
