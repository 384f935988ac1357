"""Networks as pure functions: parameters are a flat dict of arrays, named as in PyTorch."""

from ddpm_jax.models.network import (
    Network,
    Params,
    build_features,
    build_network,
    count_parameters,
    functional,
)

__all__ = [
    "Network",
    "Params",
    "build_features",
    "build_network",
    "count_parameters",
    "functional",
]
