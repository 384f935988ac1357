"""Whole short chains, every step of them, against the original code."""

import re
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.process import model_timesteps
from tests.parity.cases import classifier_gradient, diffusion_of, fake_model, schedule_of
from tests.parity.golden import load, to_nchw, to_nhwc
from tests.sampling.steps import one_step

FILE = load("loops.npz")
OUTPUTS = FILE.keys("out/")
CHAINS = [key[len("out/") : -len("/sample")] for key in OUTPUTS if key.endswith("/sample")]


@pytest.mark.parametrize("chain", CHAINS)
def test_every_step_of_a_chain_is_the_originals(golden, chain):
    file = golden("loops.npz")
    name, sampler = chain.split("/")
    kind, eta, cond = re.fullmatch(r"(p|ddim)(?:_eta([\d.]+))?_cond([01])", sampler).groups()
    step = partial(one_step, "ddpm") if kind == "p" else partial(one_step, "ddim", eta=float(eta))
    case = file.meta["cases"][name]
    diffusion = diffusion_of(case, case["mean"], case["var"])
    gradient = classifier_gradient(file) if cond == "1" else None

    x = jnp.asarray(to_nhwc(file.array(f"in/{name}/x_T")))
    samples, pred_xstarts = [], []
    for i, noise in enumerate(to_nhwc(file.array(f"in/{name}/noises"))):
        t = jnp.full(len(x), diffusion.schedule.num_timesteps - 1 - i)
        denoise = fake_model(file, case["var"])
        x, pred_xstart = step(
            diffusion,
            denoise,
            x,
            t,
            noise,
            clip=case["clip"],
            gradient=gradient,
            clip_guided=False,
        )
        samples.append(x)
        pred_xstarts.append(pred_xstart)
    file.check(f"out/{chain}/sample", to_nchw(np.array(samples)))
    file.check(f"out/{chain}/pred_xstart", to_nchw(np.array(pred_xstarts)))


@pytest.mark.parametrize("name", FILE.meta["cases"])
def test_model_sees_the_timesteps_of_the_original(golden, name):
    file = golden("loops.npz")
    schedule = schedule_of(file.meta["cases"][name])
    file.check(f"out/{name}/timestep_map", schedule.timestep_map)
    downwards = jnp.arange(schedule.num_timesteps)[::-1]
    file.check(f"out/{name}/t_seen_by_model", model_timesteps(schedule, downwards))
