"""How parameters start: their distribution, and that none repeats another."""

import jax
import numpy as np
import pytest

from ddpm_jax.config import Config, DataConfig, ModelConfig
from ddpm_jax.models import build_network
from ddpm_jax.models.initializers import dense_init, draw, normal_init


@pytest.mark.parametrize("shape", [(300, 200), (3, 3, 40, 80)])
@pytest.mark.parametrize("of_a_stream", [True, False])
def test_dense_kernels_are_uniform_with_the_variance_of_glorot(shape, of_a_stream):
    key = jax.random.key(0)
    source = draw(key, int(np.prod(shape))) if of_a_stream else key
    kernel = np.asarray(dense_init(source, shape))
    fan = np.prod(shape[:-2]) * (shape[-2] + shape[-1]) / 2
    bound = np.sqrt(3 / fan)
    assert kernel.shape == shape and kernel.dtype == np.float32
    assert abs(kernel).max() < bound and abs(kernel).max() > 0.999 * bound
    assert kernel.var() == pytest.approx(1 / fan, rel=5 / np.sqrt(kernel.size))
    assert kernel.mean() == pytest.approx(0, abs=5 * kernel.std() / np.sqrt(kernel.size))


def test_embeddings_are_normal():
    table = np.asarray(normal_init(draw(jax.random.key(0), 400 * 100), (400, 100))) * 10
    assert np.isfinite(table).all()
    for moment, (want, spread) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], start=1):
        error = 5 * np.sqrt(spread / table.size)
        assert (table**moment).mean() == pytest.approx(want, abs=error)


def test_no_two_parameters_of_a_network_share_numbers():
    config = Config(
        data=DataConfig(image_size=8),
        model=ModelConfig(channels=16, channel_mult=(1, 2), norm_groups=4, num_classes=5),
    )
    network = build_network(config)
    params, others = (network.init(jax.random.key(seed)) for seed in (0, 1))
    drawn = {name: np.ravel(a) for name, a in params.items() if a.ndim > 1 and np.any(a)}
    assert len(drawn) > 20
    # Up to its bound or its spread, a number that came twice would be the same in two parameters.
    numbers = np.concatenate([a / abs(a).max() for name, a in drawn.items() if "emb" not in name])
    assert len(np.unique(np.round(numbers, 7))) > 0.99 * len(numbers)
    assert all(np.any(others[name].ravel() != a) for name, a in drawn.items())
