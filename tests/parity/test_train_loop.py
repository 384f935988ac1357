"""Some steps of training: losses, gradients, AdamW, averages, as the original's loop makes them."""

from dataclasses import replace

import jax
import numpy as np

from ddpm_jax.config import DiffusionConfig, TrainConfig, build_diffusion
from ddpm_jax.interop.openai import export_state_dict
from ddpm_jax.models import Params
from ddpm_jax.training.objectives import denoising
from ddpm_jax.training.state import init_state, make_optimizer
from ddpm_jax.training.step import make_update
from tests.parity.golden import GoldenFile, load, to_nhwc
from tests.parity.networks import network_of

FILE = load("train_loop.npz")
# Optax takes 1 - b2^n in float32, the original in float64: 1.3e-5 between them at b2 = 0.999.
BIAS_CORRECTION = 1.3e-5
RATES = FILE.meta["hp"]["ema_rate"].split(",")


def settings(hp: dict) -> tuple[DiffusionConfig, TrainConfig]:
    """Ours for the original's hyper-parameters."""
    original = hp["diffusion"]
    diffusion = DiffusionConfig(
        timesteps=original["steps"],
        schedule=original["noise_schedule"],
        rescale_timesteps=original["rescale_timesteps"],
        variance="learned_range" if original["learn_sigma"] else "fixed_large",
        loss="rescaled_mse" if original["rescale_learned_sigmas"] else "mse",
    )
    train = TrainConfig(
        batch_size=hp["batch_size"],
        grad_accumulation_steps=hp["batch_size"] // hp["microbatch"],
        learning_rate=hp["lr"],
        weight_decay=hp["weight_decay"],
        learning_rate_decay="linear" if hp["lr_anneal_steps"] else "constant",
        steps=hp["lr_anneal_steps"],
        gradient_clip_norm=0.0,
        ema_warmup=False,
    )
    return diffusion, train


def check_parameters(
    file: GoldenFile, name: str, params: Params, initial: dict[str, np.ndarray]
) -> None:
    """Compares the final parameters, or an average of them, called `name` in the file."""
    final = export_state_dict(params)
    for key in file.keys(f"out/{name}/final/"):
        file.check(key, final[key.removeprefix(f"out/{name}/final/")])
    deltas = [final[of] - initial[of] for of in file.meta["param_names"]]
    got = np.array([[np.linalg.norm(delta), delta.sum()] for delta in deltas])
    # Besides the floor: a tensor's change may be off by BIAS_CORRECTION of its norm, and so its sum
    # by sqrt(size) times that (Cauchy-Schwarz); one tensor's floor may be small by luck.
    sizes = np.array([delta.size for delta in deltas])
    off = BIAS_CORRECTION * got[:, 0]
    floor = file.array(f"floor/{name}/delta_l2_sum").max(axis=1, keepdims=True)
    floor = floor + np.stack([off, np.sqrt(sizes) * off], axis=1) / 20
    file.check(f"out/{name}/delta_l2_sum", got, floor=floor)


def test_steps_of_training_are_the_originals(golden):
    file = golden("train_loop.npz")
    network, params, config = network_of(file.meta["unet"])
    diffusion_config, train = settings(file.meta["hp"])
    first, *others = map(float, RATES)
    train = replace(train, ema_decay=first, extra_ema_decays=tuple(others))
    config = replace(config, diffusion=diffusion_config, train=train)
    diffusion, optimizer = build_diffusion(diffusion_config), make_optimizer(train)
    objective = denoising(config, diffusion, network)
    update = jax.jit(make_update(config, diffusion.schedule.num_timesteps, objective, optimizer))
    per_example = jax.jit(objective)

    x, noise = (to_nhwc(file.array(f"in/{name}")) for name in ("batches", "noise"))
    t, weight = file.array("in/t"), file.array("in/weights")
    state = init_state(params, optimizer, config)
    seen = {name: [] for name in ("loss", "mse", "vb", "grad_norm", "lr_used")}
    for step in range(len(x)):
        examples = {
            "x": x[step],
            "label": np.full(len(x[step]), -1),
            "t": t[step],
            "noise": noise[step],
            # The original adds the gradients of its micro-batches up; ours are averaged.
            "weight": weight[step] * train.grad_accumulation_steps,
        }
        for name, values in per_example(state.params, examples, None).items():
            seen[name].append(values)
        state, metrics = update(state, examples, jax.random.key(0))
        seen["grad_norm"].append(metrics["grad_norm"])
        seen["lr_used"].append(metrics["learning_rate"])

    for name, values in seen.items():
        file.check(f"out/{name}", np.array(values))
    initial = export_state_dict(params)
    check_parameters(file, "model", state.params, initial)
    for rate in RATES:
        ema = state.ema if float(rate) == first else state.extra_ema[rate]
        check_parameters(file, f"ema_{rate}", ema, initial)
