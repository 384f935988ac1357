"""Some steps of training: losses, gradients, AdamW, averages, as the original's loop makes them."""

import re
from collections.abc import Mapping
from dataclasses import replace

import jax
import numpy as np

from ddpm_jax.config import Config, DiffusionConfig, TrainConfig, build_diffusion
from ddpm_jax.interop.openai import export_state_dict
from ddpm_jax.models import Params, build_network
from ddpm_jax.training.objectives import Examples, denoising
from ddpm_jax.training.state import init_state, make_optimizer
from ddpm_jax.training.step import make_update
from tests.parity.golden import GoldenFile, load, to_nhwc
from tests.parity.networks import network_of

FILE = load("train_loop.npz")
RATES = FILE.meta["hp"]["ema_rate"].split(",")
ADAM = re.search(r"betas \(([\d.]+), ?([\d.]+)\) eps 1e-0?8", FILE.meta["optimizer"])
B1, B2 = map(float, ADAM.groups())
# Optax takes 1 - b2^n in float32, the original in float64: 1.3e-5 between them at b2 = 0.999.
BIAS_CORRECTION = abs((1 - np.float32(B2)) / (1 - B2) - 1)


def variance_of(original: Mapping) -> str:
    """The original's flags as our variance: sigma_small counts only where none is learned."""
    if original["learn_sigma"]:
        return "learned_range"
    return "fixed_small" if original.get("sigma_small") else "fixed_large"


def loss_of(original: Mapping) -> str:
    if original.get("use_kl"):
        return "rescaled_kl"
    return "rescaled_mse" if original["rescale_learned_sigmas"] else "mse"


def settings(hp: Mapping) -> tuple[DiffusionConfig, TrainConfig]:
    """Ours for the original's hyper-parameters."""
    original, batch_size = hp["diffusion"], hp["batch_size"]
    diffusion = DiffusionConfig(
        timesteps=original["steps"],
        schedule=original["noise_schedule"],
        rescale_timesteps=original["rescale_timesteps"],
        prediction="x_start" if original.get("predict_xstart") else "eps",
        variance=variance_of(original),
        loss=loss_of(original),
    )
    first, *others = map(float, RATES)
    micro = hp["microbatch"] if hp["microbatch"] > 0 else batch_size
    train = TrainConfig(
        batch_size=batch_size,
        grad_accumulation_steps=1 if batch_size % micro else batch_size // micro,
        learning_rate=hp["lr"],
        weight_decay=hp["weight_decay"],
        adam_b1=B1,
        adam_b2=B2,
        learning_rate_decay="linear" if hp["lr_anneal_steps"] else "constant",
        steps=hp["lr_anneal_steps"],
        gradient_clip_norm=0.0,
        ema_decay=first,
        extra_ema_decays=tuple(others),
        ema_warmup=False,
    )
    return diffusion, train


def config_and_params(file: GoldenFile) -> tuple[Config, Params]:
    """The settings of the run, and the parameters that it starts from."""
    _, params, config = network_of(file.meta["unet"])
    diffusion, train = settings(file.meta["hp"])
    # Which activations PyTorch drops nobody else can draw: the original ran with this rate.
    model = replace(config.model, dropout=file.meta["dropout"])
    return replace(config, model=model, diffusion=diffusion, train=train), params


def examples_of(file: GoldenFile) -> list[Examples]:
    """The examples of each step."""
    names = ["batches", "noise", *(["low_res"] if file.keys("in/low_res") else [])]
    images = {name: to_nhwc(file.array(f"in/{name}")) for name in names}
    t, weight, batch_size = (
        file.array("in/t"),
        file.array("in/weights"),
        file.array("in/t").shape[1],
    )
    labels = file.array("in/y") if file.keys("in/y") else -1
    # The original adds up the gradients of its micro-batches' means; ours is that of one mean.
    micro = file.meta["hp"]["microbatch"]
    micro = micro if micro > 0 else batch_size
    of_micro_batch = np.arange(batch_size) // micro
    share = batch_size / np.bincount(of_micro_batch)[of_micro_batch]
    columns = {
        "x": images.pop("batches"),
        "label": np.broadcast_to(labels, t.shape).astype(np.int32),
        "t": t,
        "weight": weight * share.astype(np.float32),
        **images,
    }
    return [{name: column[step] for name, column in columns.items()} for step in range(len(t))]


def check_parameters(
    file: GoldenFile, name: str, params: Params, initial: dict[str, np.ndarray]
) -> None:
    """Compares the final parameters, or an average of them, called `name` in the file."""
    final = export_state_dict(params)
    for key in file.keys(f"out/{name}/final/"):
        file.check(key, final[key.removeprefix(f"out/{name}/final/")])
    deltas = [final[of] - initial[of] for of in file.meta["param_names"]]
    got = np.array([[np.linalg.norm(delta), delta.sum()] for delta in deltas])
    file.check(f"out/{name}/delta_l2_sum", got, floor=floor_of_deltas(file, name, deltas))


def floor_of_deltas(file: GoldenFile, name: str, deltas: list[np.ndarray]) -> np.ndarray:
    """How far rounding may move the norm and the sum of each tensor's change.

    The file's floor is one sample of that. For some tensors it is small by luck, in one of 145 by a
    factor of 40: so the larger of its two entries counts, and at least the share of the norm that
    is the median over all tensors. Besides, a tensor's change may be off by BIAS_CORRECTION of its
    norm, and so its sum by sqrt(size) times that (Cauchy-Schwarz).
    """
    floor = file.array(f"floor/{name}/delta_l2_sum").astype(np.float64)
    roots = np.sqrt([delta.size for delta in deltas])
    norms = np.array([np.linalg.norm(delta) for delta in deltas])
    larger = np.maximum(floor.max(axis=1), np.median(floor[:, 1] / norms) * norms)
    off = BIAS_CORRECTION * norms / 20
    return np.stack([larger + off, larger + roots * off], axis=1)


def test_steps_of_training_are_the_originals(golden):
    file = golden("train_loop.npz")
    config, params = config_and_params(file)
    respacing = file.meta["hp"]["diffusion"]["timestep_respacing"]
    diffusion = build_diffusion(config.diffusion, respacing)
    optimizer = make_optimizer(config.train)
    objective = denoising(config, diffusion, build_network(config))
    update = jax.jit(make_update(config, diffusion.schedule.num_timesteps, objective, optimizer))
    per_example = jax.jit(objective)

    state = init_state(params, optimizer, config)
    seen = []
    for examples in examples_of(file):
        numbers = per_example(state.params, examples, None)
        state, metrics = update(state, examples, jax.random.key(0))
        # Where no variance is learned the loss is the mse, and there is no other term.
        terms = {"mse": numbers["loss"], **numbers}
        terms |= {"grad_norm": metrics["grad_norm"], "lr_used": metrics["learning_rate"]}
        seen.append(terms)

    for key in ("out/loss", "out/mse", "out/vb", "out/grad_norm", "out/lr_used"):
        if key in file.keys("out/"):
            file.check(key, np.array([terms[key.removeprefix("out/")] for terms in seen]))
    initial = export_state_dict(params)
    check_parameters(file, "model", state.params, initial)
    for rate in RATES:
        ema = state.ema if rate == RATES[0] else state.extra_ema[str(float(rate))]
        check_parameters(file, f"ema_{rate}", ema, initial)
