"""Guided sampling and super-resolution sampling with whole networks, step by step."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.data.model_range import to_uint8
from tests.parity.cases import diffusion_of
from tests.parity.golden import GoldenFile, load, to_nchw, to_nhwc
from tests.parity.networks import network_of
from tests.sampling.steps import one_step

FILE = load("e2e.npz")
STEPS = {"p": partial(one_step, "ddpm"), "ddim": partial(one_step, "ddim")}


def chain(
    file: GoldenFile, name: str, run: dict, x_T: str, step: Callable, denoise: Callable
) -> jax.Array:
    """Compares every step of the run called `name`; returns its sample, NHWC."""
    case = {
        "schedule": run["noise_schedule"],
        "T": run["steps"],
        "respacing": run["timestep_respacing"],
        "rescale": run.get("rescale_timesteps", False),
    }
    diffusion = diffusion_of(case, "EPSILON", "LEARNED_RANGE" if run["learn_sigma"] else "FIXED")
    one = jax.jit(partial(step, diffusion, denoise))
    x = jnp.asarray(to_nhwc(file.array(f"in/{x_T}")))
    samples, pred_xstarts = [], []
    for i, noise in enumerate(to_nhwc(file.array(f"in/{name}/noises"))):
        t = jnp.full(len(x), diffusion.schedule.num_timesteps - 1 - i)
        x, pred_xstart = one(x, t, noise)
        samples.append(x)
        pred_xstarts.append(pred_xstart)
    file.check(f"out/{name}/sample", to_nchw(np.array(samples)))
    file.check(f"out/{name}/pred_xstart", to_nchw(np.array(pred_xstarts)))
    return x


@pytest.mark.parametrize("name", FILE.meta["runs"])
def test_guided_sampling_is_the_originals(golden, name):
    file = golden("e2e.npz")
    run, labels = file.meta["runs"][name], file.array("in/y")
    unet, params, _ = network_of(file.meta["unet"])
    classifier, classifier_params, _ = network_of(file.meta["classifier"])

    def log_prob(x: jax.Array, t: jax.Array) -> jax.Array:
        log_probs = jax.nn.log_softmax(classifier.apply(classifier_params, x, t))
        return log_probs[jnp.arange(len(x)), labels].sum()

    def guidance_gradient(x: jax.Array, t: jax.Array) -> jax.Array:
        return jax.grad(log_prob)(x, t) * file.meta["classifier_scale"]

    step = partial(STEPS[run["kind"]], gradient=guidance_gradient, clip_guided=False)
    x = chain(file, name, run, "x_T", step, lambda x, t: unet.apply(params, x, t, labels))
    # Rounding to pixels is exact for the same sample; ours, itself rounded otherwise, may fall on
    # the other side of a level here and there.
    file.check(f"out/{name}/uint8_nhwc", to_uint8(to_nhwc(file.array(f"out/{name}/sample")[-1])))
    off = np.abs(to_uint8(x).astype(int) - file.array(f"out/{name}/uint8_nhwc"))
    assert off.max() <= 1 and off.mean() < 0.01


def test_super_resolution_sampling_is_the_originals(golden):
    file = golden("e2e.npz")
    low_res, labels = to_nhwc(file.array("in/sr_low_res")), file.array("in/sr_y")
    network, params, _ = network_of(file.meta["superres"])
    chain(
        file,
        "sr",
        file.meta["sr"],
        "sr_x_T",
        STEPS["p"],
        lambda x, t: network.apply(params, x, t, labels, None, low_res),
    )
