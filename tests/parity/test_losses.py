"""Every training loss, its parts and its gradients, against the original code."""

from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.losses import training_losses
from tests.parity.cases import diffusion_of
from tests.parity.golden import load, to_nchw, to_nhwc

FILE = load("training_losses.npz")


def tape_model(file, name, mean, var, seen):
    """denoise([a, b, v0, v1]): `model_doc` of the file's meta; what it is given goes to `seen`."""
    prediction = to_nhwc(file.array(f"in/{name}/tape_{mean}"))
    learned = f"in/{name}/tape_{var}"
    variance = to_nhwc(file.array(learned)) if file.keys(learned) else None

    def with_scalars(scalars):
        a, b, v0, v1 = scalars

        def denoise(x_t, model_t):
            seen["x_t"], seen["t"] = x_t, model_t
            output = a * prediction + b
            if variance is None:
                return output
            return jnp.concatenate([output, v1 * variance + v0], axis=-1)

        return denoise

    return with_scalars


@cache
def losses_of(name):
    """loss, mse, vb [loss, mean, var, N], grads [loss, mean, var, 4], and what the model saw."""
    meta, seen = FILE.meta, {}
    axes = [meta[axis] for axis in ("loss", "mean", "var")]
    rows = [losses_and_grads(name, *row, seen) for row in product(*axes)]
    grid = {key: np.reshape([row[key] for row in rows], (*map(len, axes), -1)) for key in rows[0]}
    return grid, seen


def losses_and_grads(name, loss, mean, var, seen):
    """One entry of each output; NaN where there is no such term."""
    diffusion = diffusion_of(FILE.meta["diffusions"][name], mean, var)
    model = tape_model(FILE, name, mean, var, seen)
    x_start, noise = (to_nhwc(FILE.array(f"in/{name}/{key}")) for key in ("x_start", "noise"))
    t = FILE.array(f"in/{name}/t")

    def mean_loss(scalars):
        losses = training_losses(diffusion, model(scalars), x_start, t, noise, loss.lower())
        return losses.loss.mean(), losses

    grads, losses = jax.grad(mean_loss, has_aux=True)(jnp.array([1.0, 0, 0, 1]))
    absent = np.full(len(t), np.nan)
    parts = {key: absent if row is None else row for key, row in losses._asdict().items()}
    return {**parts, "grads": grads}


@pytest.mark.parametrize("part", ["loss", "mse", "vb", "grads"])
@pytest.mark.parametrize("name", FILE.meta["diffusions"])
def test_every_loss_of_every_mean_and_variance_type_is_the_originals(golden, name, part):
    rows, _ = losses_of(name)
    golden("training_losses.npz").check(f"out/{name}/{part}", rows[part])


@pytest.mark.parametrize("name", FILE.meta["diffusions"])
def test_the_model_sees_what_that_of_the_original_sees(golden, name):
    file, (_, seen) = golden("training_losses.npz"), losses_of(name)
    file.check(f"out/{name}/x_t_seen_by_model", to_nchw(seen["x_t"]))
    file.check(f"out/{name}/t_seen_by_model", seen["t"])
