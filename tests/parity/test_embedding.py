"""Timestep embeddings against the original code."""

import re

import pytest

from ddpm_jax.models.layers import timestep_embedding
from tests.parity.golden import load


@pytest.mark.parametrize("key", load("embed.npz").keys("out/"))
def test_timestep_embedding_is_the_originals(golden, key):
    file = golden("embed.npz")
    kind, dim, period = re.fullmatch(r"out/(int|float)_(\d+)(?:_mp(\d+))?", key).groups()
    assert int(dim) in file.meta["dims"]
    options = {} if period is None else {"max_period": float(period)}
    file.check(key, timestep_embedding(file.array(f"in/t_{kind}"), int(dim), **options))
