"""The FLOPs of a network, and the share of the devices' peak that a run reaches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ddpm_jax.config import Config, data_shape
from ddpm_jax.models import Network

# Training on an image costs this many evaluations of the network: one forward, two backward.
TRAINING_EVALUATIONS = 3
# (part of `device_kind`, FLOP/s in bfloat16, FLOP/s in float32): the peak of one device without
# sparsity, from the makers' data sheets. float32 is multiplied as JAX does by default: in TF32 on
# NVIDIA's devices, rounded to bfloat16 on TPUs. A device is a chip; half a chip of TPU v2 and v3.
PEAKS = (
    ("B200", 2250e12, 1125e12),
    ("H200", 989e12, 494e12),
    ("H100 PCIe", 756e12, 378e12),
    ("H100", 989e12, 494e12),
    ("A100", 312e12, 156e12),
    ("L40S", 362e12, 183e12),
    ("L4", 121e12, 60e12),
    ("RTX 4090", 165e12, 82.6e12),
    ("RTX 3090", 71e12, 35.6e12),
    ("TPU v6", 918e12, 918e12),
    ("TPU v5 lite", 197e12, 197e12),
    ("TPU v5e", 197e12, 197e12),
    ("TPU v5", 459e12, 459e12),
    ("TPU v4", 275e12, 275e12),
    ("TPU v3", 61.5e12, 61.5e12),
    ("TPU v2", 22.5e12, 22.5e12),
)


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """The peak FLOP/s of a device in "bfloat16" or "float32"; None if that is not known."""
    for part, bfloat16, float32 in PEAKS:
        if part in device_kind:
            return bfloat16 if dtype == "bfloat16" else float32
    return None


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
