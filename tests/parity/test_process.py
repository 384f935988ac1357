"""q(x_t | x_0), its posterior and p(x_{t-1} | x_t), against the original code."""

import numpy as np
import pytest

from ddpm_jax.diffusion.predictions import eps_from_xstart, xstart_from_eps, xstart_from_xprev
from ddpm_jax.diffusion.process import (
    model_timesteps,
    p_mean_variance,
    q_mean_variance,
    q_posterior,
    q_sample,
)
from tests.parity.cases import diffusion_of, fake_model, schedule_of
from tests.parity.golden import load, to_nchw, to_nhwc


@pytest.mark.parametrize("name", load("qdist.npz").meta["diffusions"])
def test_forward_process_and_posterior_are_the_originals(golden, name):
    file = golden("qdist.npz")
    schedule = schedule_of(file.meta["diffusions"][name])
    x_start, noise, x_t = (to_nhwc(file.array(f"in/{k}")) for k in ("x_start", "noise", "x_t"))
    t = file.array(f"in/{name}/t")
    q, posterior = q_mean_variance(schedule, x_start, t), q_posterior(schedule, x_start, x_t, t)
    outputs = {
        "q_sample": q_sample(schedule, x_start, t, noise),
        **dict(zip(("q_mean", "q_variance", "q_log_variance"), q, strict=True)),
        **dict(
            zip(("post_mean", "post_variance", "post_log_variance_clipped"), posterior, strict=True)
        ),
    }
    for key, got in outputs.items():
        file.check(f"out/{name}/{key}", to_nchw(got))


@pytest.mark.parametrize("name", load("p_mean_variance.npz").meta["diffusions"])
def test_reverse_step_of_every_mean_and_variance_type_is_the_originals(golden, name):
    file = golden("p_mean_variance.npz")
    case, meta = file.meta["diffusions"][name], file.meta
    x, t = to_nhwc(file.array(f"in/{name}/x")), file.array(f"in/{name}/t")
    model_t = model_timesteps(schedule_of(case), t)
    outputs = {var: fake_model(file, var)(x, model_t) for var in meta["var"]}
    steps = [
        [
            [
                p_mean_variance(diffusion_of(case, mean, var), outputs[var], x, t, clip)
                for clip in meta["clip"]
            ]
            for var in meta["var"]
        ]
        for mean in meta["mean"]
    ]
    for field in ("mean", "variance", "log_variance", "pred_xstart"):
        got = [[[getattr(step, field) for step in row] for row in plane] for plane in steps]
        file.check(f"out/{name}/{field}", to_nchw(np.array(got)))
    file.check(f"out/{name}/t_seen_by_model", model_t)


@pytest.mark.parametrize("name", load("p_mean_variance.npz").meta["diffusions"])
def test_the_formula_that_stands_for_a_network_gives_the_outputs_of_the_original(golden, name):
    file = golden("p_mean_variance.npz")
    schedule = schedule_of(file.meta["diffusions"][name])
    x, t = to_nhwc(file.array(f"in/{name}/x")), file.array(f"in/{name}/t")
    for key in file.keys(f"in/{name}/model_output"):
        var = key.removeprefix(f"in/{name}/model_output").removeprefix("_")
        got = fake_model(file, var)(x, model_timesteps(schedule, t))
        np.testing.assert_allclose(to_nchw(got), file.array(key), atol=1e-5)


@pytest.mark.parametrize("name", load("p_mean_variance.npz").meta["diffusions"])
def test_conversions_and_denoised_fn_are_the_originals(golden, name):
    file = golden("p_mean_variance.npz")
    case = file.meta["diffusions"][name]
    schedule = schedule_of(case)
    x, t = to_nhwc(file.array(f"in/{name}/x")), file.array(f"in/{name}/t")
    for function in (eps_from_xstart, xstart_from_eps, xstart_from_xprev):
        got = function(schedule, x, t, np.float32(0.3) * x)
        file.check(f"out/{name}/{function.__name__}", to_nchw(got))

    formula, mean, var, clip = file.meta["denoised_fn"].split(", ")
    denoised_fn = eval(f"lambda x: {formula}", {})
    output = fake_model(file, var)(x, model_timesteps(schedule, t))
    diffusion = diffusion_of(case, mean, var)
    step = p_mean_variance(diffusion, output, x, t, clip == "clip True", denoised_fn)
    file.check(f"out/{name}/denoised_fn_pred_xstart", to_nchw(step.pred_xstart))
    file.check(f"out/{name}/denoised_fn_mean", to_nchw(step.mean))
