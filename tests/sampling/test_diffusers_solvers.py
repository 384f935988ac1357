"""Every solver that diffusers has, step by step beside it: same network, levels and noise.

Exceptions: diffusers' DEIS stops at the lowest noise level, so its last step is another. Its
DPM-Solver++ 3M ends with orders 2 and 1 in chains of less than 15 steps only, and ours always; and
it adds half the second difference, which makes it a method of second order (test_solvers.py): here
ours does too.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import spacing as levels
from ddpm_jax.diffusion.process import Diffusion
from ddpm_jax.diffusion.schedules import (
    alpha_bar_betas,
    cosine_alpha_bar,
    make_schedule,
    named_betas,
)
from ddpm_jax.diffusion.spacing import respace
from ddpm_jax.sampling import SAMPLERS, ChainOptions, make_sampling_loop, multistep
from ddpm_jax.sampling.noise import sample_keys, standard_normal

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

T, SHAPE, BATCH = 1000, (3, 4, 2), 2
# Of diffusers, once a step.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BETAS = {"linear": named_betas("linear", T), "cosine": named_betas("cosine", T)}
# In diffusers' float32 these lose four digits where alpha is 5e-5, in the cosine's first step: they
# subtract x_t alpha' / alpha, which is 3,000 times what is left. Here alpha begins at 0.02.
MILD_COSINE = alpha_bar_betas(cosine_alpha_bar, T, max_beta=0.05)
INEXACT = {("deis", "x_start"), ("deis", "v"), ("euler_ancestral", "v")}
PREDICTIONS = {"eps": "epsilon", "x_start": "sample", "v": "v_prediction"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
# Each: diffusers' class, its settings; if it works with x / alpha; how its steps are placed.
PEERS = {
    "ddim": ("DDIMScheduler", {"set_alpha_to_one": True, "clip_sample": False}, False, "trailing"),
    "euler": ("EulerDiscreteScheduler", {}, True, "karras"),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}, True, "trailing"),
    "heun": ("HeunDiscreteScheduler", {}, True, "karras"),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"solver_order": 2}, False, "trailing"),
    "dpmpp_3m": ("DPMSolverMultistepScheduler", {"solver_order": 3}, False, "trailing"),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"solver_order": 2} | SDE, False, "trailing"),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2}, False, "trailing"),
    "unipc_3": ("UniPCMultistepScheduler", {"solver_order": 3}, False, "trailing"),
    "deis": ("DEISMultistepScheduler", {"solver_order": 3}, False, "trailing"),
    "pndm": (
        "PNDMScheduler",
        {"skip_prk_steps": True, "set_alpha_to_one": True},
        False,
        "leading",
    ),
}
CASES = [
    (name, prediction)
    for name in PEERS
    for prediction in PREDICTIONS
    # Two do not take x_0 in diffusers; its PNDM mixes v of several x as if all were of the last.
    if (name, prediction)
    not in {("euler_ancestral", "x_start"), ("pndm", "x_start"), ("pndm", "v")}
]

SLOW = {("x_start", "cosine"), ("v", "cosine")}


def network(x, t, tanh):
    """Some function of x and t, in NumPy's, JAX's or PyTorch's arithmetic."""
    return 0.8 * tanh(1.5 * x + t / 1000) - 0.1 * x


def ours(name, prediction, betas, spacing, steps, x, noise_seed):
    """x at every level of the chain, noisiest first, and x_0."""
    full = make_schedule(betas)
    chain = respace(full, str(steps), spacing)
    keep = range(steps - 1, -1, -1)

    def apply(params, x, t, condition):
        return network(x, t.reshape(-1, 1, 1, 1), jnp.tanh)

    run = make_sampling_loop(
        Diffusion(chain, prediction, training=full),
        SAMPLERS[name],
        apply,
        SHAPE,
        ChainOptions(clip=False, keep=keep),
    )
    found = run((), noise_seed, np.arange(BATCH, dtype=np.int32), (), x_init=jnp.asarray(x))
    return [*np.asarray(found.kept_x), np.asarray(found.x)], chain


@pytest.mark.parametrize(
    ("name", "prediction", "schedule"),
    [
        pytest.param(
            *case,
            schedule,
            # Predictions and schedules meet in the tables alone, so not every pair at each change.
            marks=pytest.mark.slow if (case[1], schedule) in SLOW else (),
        )
        for case in CASES
        for schedule in BETAS
    ],
)
def test_a_chain_is_that_of_diffusers_step_by_step(name, prediction, schedule, monkeypatch):
    if name == "dpmpp_3m":
        differences = multistep._divided_differences
        halved = lambda *arguments: [d / (k + 1) for k, d in enumerate(differences(*arguments))]  # noqa: E731
        monkeypatch.setattr(multistep, "_divided_differences", halved)
    # Diffusers' levels go up to the last one of training.
    monkeypatch.setattr(levels, "KARRAS_MOST", np.inf)
    kind, settings, exploding, spacing = PEERS[name]
    betas = BETAS[schedule]
    if (name, prediction) in INEXACT and schedule == "cosine":
        betas = MILD_COSINE
    steps, seed = 10, 3
    placed = {"use_karras_sigmas": True} if spacing == "karras" else {"timestep_spacing": spacing}
    scheduler = getattr(diffusers, kind)(
        num_train_timesteps=T,
        trained_betas=betas,
        prediction_type=PREDICTIONS[prediction],
        **settings,
        **placed,
    )
    # In float32, which diffusers multiplies in, 1 - beta of a cosine schedule's end is off by 5e-5.
    scheduler.alphas_cumprod = torch.tensor(np.cumprod(1 - betas))
    scheduler.set_timesteps(steps)

    x_init = np.random.default_rng(0).standard_normal((BATCH, *SHAPE), np.float32)
    want, chain = ours(name, prediction, betas, spacing, steps, x_init, seed)
    keys = sample_keys(seed, np.arange(BATCH))
    noises = iter(
        torch.tensor(np.asarray(standard_normal(keys, t, SHAPE))) for t in range(steps - 1, -1, -1)
    )
    module = __import__(type(scheduler).__module__, fromlist=["_"])
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: next(noises))

    # Both ways hold x_t = alpha x_0 + sigma noise; the exploding one keeps x_t / alpha.
    alphas = np.append(1.0, chain.sqrt_alphas_cumprod)[::-1]
    x = torch.tensor(x_init / alphas[0] if exploding else x_init, dtype=torch.float64)
    got = []
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        x = scheduler.step(network(scaled, float(t), torch.tanh), t, x).prev_sample
        got.append(np.asarray(x))
    # Heun and PNDM evaluate twice to get to some levels: the second time is the step.
    if name == "heun":
        got = [*got[1:-1:2], got[-1]]
    if name == "pndm":
        got = got[1:]
    got = [each * alpha if exploding else each for each, alpha in zip(got, alphas[1:], strict=True)]
    last = -1 if name == "deis" else None
    for step, (ours_x, theirs) in enumerate(zip(want[1:last], got[:last], strict=True)):
        scale = max(1, np.abs(theirs).max())
        np.testing.assert_allclose(
            ours_x / scale, theirs / scale, rtol=0, atol=1e-5, err_msg=f"{step}"
        )
