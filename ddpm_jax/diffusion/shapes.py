"""What the shapes of `diffusion` and `sampling` are written with: `Float[Array, "batch *shape"]`.

The tests check them at run time. NumPy arrays are as good as JAX's.
"""

from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    Array = jax.Array
else:
    Array = jax.Array | np.ndarray

__all__ = ["Array", "Float", "Int"]
