"""RePaint's jumps: a chain that goes back up now and then, and what comes before its steps."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.diffusion.shapes import Array
from ddpm_jax.sampling.noise import standard_normal


class Resampling(NamedTuple):
    """RePaint's jumps: back up by `jump` steps, and down again, `times` times in all."""

    times: int = 10
    jump: int = 10


def chain_moves(num_steps: int, resampling: Resampling | None = None) -> list[int]:
    """The index t of every step of a chain, in order: T-1 down to 0, or RePaint's (algorithm 1).

    From x at each multiple of `jump` the chain goes back up by `jump`, times - 1 times.
    """
    if resampling is None:
        return list(range(num_steps - 1, -1, -1))
    times, jump = resampling
    left = dict.fromkeys(range(0, num_steps - jump, jump), times - 1)
    moves, t = [], num_steps - 1
    while t >= 0:
        moves.append(t)
        t -= 1
        if left.get(t, 0):
            left[t] -= 1
            t += jump
    return moves


class Rises:
    """What comes before a step of a chain with jumps: the noise that q adds on the way up."""

    def __init__(
        self, schedule: NoiseSchedule, resampling: Resampling, shape: tuple[int, ...]
    ) -> None:
        total, self._shape = schedule.num_timesteps, shape
        moves = chain_moves(total, resampling)
        seen, numbers = set[int](), []
        for k, t in enumerate(moves):
            # A step's first visit draws the numbers of a chain without jumps, others their own.
            numbers.append((2 * total + 2) * (k + 1) if t in seen else 0)
            seen.add(t)
        arrived = np.array([total, *moves[:-1]]) - 1  # the index of x before each step
        kept = schedule.alphas_cumprod[moves] / schedule.alphas_cumprod[arrived]
        # Steps are counted by how many are left.
        self._t, self._numbers = np.array(moves[::-1]), np.array(numbers[::-1])
        self._rises, self._kept = self._t > arrived[::-1], np.minimum(kept, 1)[::-1]
        self._own_number = 2 * total + 1

    def __call__(self, x: Array, left: Array, keys: Array) -> tuple[Array, Array, Array, Array]:
        """x at the level of the next step, its t, if noise was added, and its numbers' start."""
        number, rises = jnp.asarray(self._numbers)[left], jnp.asarray(self._rises)[left]
        kept = jnp.asarray(self._kept, jnp.float32)[left]
        noise = standard_normal(keys, number + self._own_number, self._shape)
        raised = jnp.sqrt(kept) * x + jnp.sqrt(1 - kept) * noise
        return jnp.where(rises, raised, x), jnp.asarray(self._t)[left], rises, number
