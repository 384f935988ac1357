"""FLOPs as XLA counts them against closed forms, peaks by name, and rates for the log."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config import Config, DataConfig, ModelConfig, ParallelConfig
from ddpm_jax.models import build_network
from ddpm_jax.runtime import devices, peak_flops
from ddpm_jax.training import throughput


def of_shape(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_a_matrix_product_costs_two_flops_a_multiplication():
    assert (
        throughput.count_flops(jnp.matmul, of_shape(32, 64), of_shape(64, 16)) == 2 * 32 * 64 * 16
    )


def mlp(width: int) -> Config:
    model = ModelConfig(kind="mlp", channels=width, num_res_blocks=3)
    return Config(data=DataConfig(name="s_curve"), model=model)


def test_an_evaluation_costs_what_its_layers_do():
    config = mlp(256)
    layers = 2 * (2 * 256 + 2 * 256 * 256 + 3 * 256 * 256 + 256 * 2)
    found = throughput.evaluation_flops(config, build_network(config))
    assert layers < found < 1.02 * layers  # the rest: biases, activations, the embedding


def test_an_evaluation_of_a_super_resolution_model_is_counted():
    model = ModelConfig(channels=8, channel_mult=(1,), num_res_blocks=1, norm_groups=8)
    model = dataclasses.replace(model, attention_resolutions=())
    plain = Config(data=DataConfig(image_size=8), model=model)
    enlarges = Config(data=DataConfig(image_size=8, low_res_size=4), model=model)
    few, more = (throughput.evaluation_flops(c, build_network(c)) for c in (plain, enlarges))
    first_convolution = 2 * 3 * 8 * 22**2  # of 3 more channels; 22 pixels lie under 3 taps of 8
    assert more - few == pytest.approx(first_convolution, rel=0.2)


@pytest.mark.parametrize(
    ("kind", "bfloat16", "float32"),
    [
        ("NVIDIA H200", 989e12, 494e12),
        ("NVIDIA H100 PCIe", 756e12, 378e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 156e12),
        ("NVIDIA L40S", 362e12, 183e12),
        ("TPU v5 lite", 197e12, 197e12),
        ("TPU v5p", 459e12, 459e12),
        ("TPU v4", 275e12, 275e12),
        ("cpu", None, None),
    ],
)
def test_peaks_are_found_by_the_name_of_the_device(kind, bfloat16, float32):
    assert peak_flops.peak_flops(kind, "bfloat16") == bfloat16
    assert peak_flops.peak_flops(kind, "float32") == float32


def test_rates_are_those_of_three_evaluations_an_image_and_a_share_of_all_devices(monkeypatch):
    config = mlp(8)
    network, mesh = build_network(config), devices.make_mesh(ParallelConfig(data=4), 8)
    wanted = 3 * throughput.evaluation_flops(config, network) * 100
    assert throughput.make_rates(config, network, mesh)(100) == {"model_flops_per_second": wanted}
    monkeypatch.setattr(peak_flops, "PEAKS", (("cpu", 2e9, 1e9),))
    rates = throughput.make_rates(config, network, mesh)(100)
    np.testing.assert_allclose(rates["model_flops_utilisation"], wanted / 4e9)


def test_without_cpus_there_are_no_rates(monkeypatch):
    def none(backend: str) -> list:
        raise RuntimeError(f"unknown backend {backend}")

    config = mlp(8)
    mesh = devices.make_mesh(ParallelConfig(data=1), 8)
    monkeypatch.setattr(jax, "local_devices", none)
    assert throughput.make_rates(config, build_network(config), mesh)(100) == {}
