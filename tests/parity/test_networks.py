"""Whole networks, block by block, and the gradient of a classifier, against the original code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.models import unet
from tests.parity.golden import load, to_nchw, to_nhwc
from tests.parity.networks import NETWORKS, network_of

CLASSIFIERS = [name for name in NETWORKS if any("_label" in k for k in load(name).keys("in/"))]


def calls(filename: str) -> list[str]:
    """A of "in/A_x": the inputs that the network was run on."""
    keys = load(filename).keys("in/")
    return [key[len("in/") : -len("_x")] for key in keys if key.endswith("_x")]


def inputs(filename: str, call: str) -> dict[str, np.ndarray]:
    """Inputs of a call by name; floats for t, so that all calls share a program."""
    file, prefix = load(filename), f"in/{call}_"
    given = {key.removeprefix(prefix): file.array(key) for key in file.keys(prefix)}
    for name in ("x", "low_res"):
        if name in given:
            given[name] = to_nhwc(given[name])
    return given | {"t": given["t"].astype(np.float32)}


@pytest.mark.parametrize("filename", NETWORKS)
def test_network_is_the_originals_block_by_block(monkeypatch, filename):
    file, (network, params, config) = load(filename), network_of(filename)
    embed_time, run_block = unet.Encoder.embed_time, unet.run_block
    embedded, blocks = [], []

    def recorded(into, value):
        into.append(value)
        return value

    monkeypatch.setattr(
        unet.Encoder, "embed_time", lambda self, t: recorded(embedded, embed_time(self, t))
    )
    monkeypatch.setattr(unet, "run_block", lambda *args: recorded(blocks, run_block(*args)))

    @jax.jit
    def run(x, t, y=None, low_res=None):
        conditions = () if config.model.kind == "classifier" else (y, None, low_res)
        out = network.apply(params, x, t, *conditions)
        return {
            "": out if out.ndim == 2 else jnp.moveaxis(out, -1, 1),
            "_time_embed": embedded.pop(),
            "_block_mean": jnp.stack([h.mean() for h in blocks]),
            "_block_std": jnp.stack([h.std() for h in blocks]),
            "_block_corner": jnp.stack([h[0, :2, :2, :4].transpose(2, 0, 1) for h in blocks]),
        }

    for call in calls(filename):
        given = {k: v for k, v in inputs(filename, call).items() if k != "label"}
        for name, got in run(**given).items():
            if f"out/{call}{name}" in file.keys("out/"):
                file.check(f"out/{call}{name}", got)
    assert len(blocks) == len(file.meta["blocks"])


@pytest.mark.parametrize("filename", CLASSIFIERS)
def test_gradient_that_guides_is_the_originals(filename):
    file, (network, params, _) = load(filename), network_of(filename)

    @jax.jit
    def run(x, t, label):
        def log_prob(x):
            logits = network.apply(params, x, t)
            chosen = jax.nn.log_softmax(logits)[jnp.arange(len(x)), label]
            return chosen.sum(), chosen

        return jax.grad(log_prob, has_aux=True)(x)

    for call in calls(filename):
        given = inputs(filename, call)
        if "label" in given:
            grad, chosen = run(**given)
            file.check(f"out/{call}_log_prob", chosen)
            file.check(f"out/{call}_grad_x", to_nchw(grad))
