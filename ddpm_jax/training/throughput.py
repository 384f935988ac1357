"""The FLOPs of a network, and the share of the devices' peak that a run reaches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ddpm_jax.config import Config, data_shape
from ddpm_jax.models import Network
from ddpm_jax.runtime.peak_flops import peak_flops

# Training on an image costs this many evaluations of the network: one forward, two backward.
TRAINING_EVALUATIONS = 3


def count_flops(function: Callable[..., Any], *inputs: Any) -> float | None:
    """FLOPs of one call on abstract `inputs`, by XLA's cost analysis; nothing is computed.

    The program is analysed as lowered for CPUs, before optimisation; backends of GPUs and TPUs
    cannot do that. A multiplication with addition counts as two, the pixels of padding not at all,
    and the body of a loop once, however often it runs. None if JAX was started without CPUs.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
    with jax.default_device(cpu):
        cost = jax.jit(function).lower(*inputs).cost_analysis()
    return None if cost is None else float(cost["flops"])


def evaluation_flops(config: Config, network: Network) -> float | None:
    """FLOPs of one evaluation of the network for one image, as `count_flops` counts them."""
    shape, side = data_shape(config), config.data.low_res_size
    x, t = (jax.ShapeDtypeStruct((1, *of), jnp.float32) for of in (shape, ()))
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    low_res = (None, jax.ShapeDtypeStruct((1, side, side, shape[-1]), jnp.float32)) if side else ()
    return count_flops(network.apply, network.abstract, x, t, label, *low_res)


def make_rates(config: Config, network: Network, mesh: Mesh) -> Callable[[float], dict[str, float]]:
    """`rates(images_per_second)`, for the log.

    They are "model_flops_per_second", over all devices, and "model_flops_utilisation", its share of
    their peak, where that is known. Recomputation does not count; {} if the FLOPs are not known.
    """
    flops = evaluation_flops(config, network)
    peak = peak_flops(mesh.devices.flat[0].device_kind, config.model.dtype)

    def rates(images_per_second: float) -> dict[str, float]:
        if flops is None:
            return {}
        reached = TRAINING_EVALUATIONS * flops * images_per_second
        found = {"model_flops_per_second": reached}
        if peak is not None:
            found["model_flops_utilisation"] = reached / (peak * mesh.devices.size)
        return found

    return rates
