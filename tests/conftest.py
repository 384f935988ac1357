"""JAX as every test sees it: 8 CPU devices, full matmul precision, one compilation cache."""

import os
from pathlib import Path

# Through the environment, so that the scripts that tests start share the cache.
for name, value in {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).resolve().parent.parent / ".cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}.items():
    os.environ.setdefault(name, value)

import jax  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
# Libraries that read absl flags refuse to before somebody has parsed them.
flags.FLAGS.mark_as_parsed()
