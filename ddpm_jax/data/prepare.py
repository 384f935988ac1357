"""Downloads a TFDS data set and writes it as ArrayRecord. Only this file imports TensorFlow.

    python -m ddpm_jax.data.prepare cifar10 [--dir ~/tensorflow_datasets]

TensorFlow takes all the memory of a GPU and clashes with JAX's libraries, so training runs this in
another process. The extra `prepare` installs what it needs.
"""

import argparse
import os
from collections.abc import Sequence

from ddpm_jax.errors import UserError, how_to_install
from ddpm_jax.runtime.files import expanded
from ddpm_jax.runtime.script import run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Prepares the set that the command line names.

    Raises:
      UserError: TensorFlow isn't installed, or TFDS has no such set or cannot prepare it.
    """
    parser = argparse.ArgumentParser(description="Prepare a TFDS data set as ArrayRecord.")
    parser.add_argument("name", help="TFDS name, as in cifar10 or lsun/bedroom or cifar10:3.0.2")
    parser.add_argument("--dir", default="~/tensorflow_datasets", help="folder of data sets")
    args = parser.parse_args(argv)

    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the GPU belongs to JAX
    try:
        import tensorflow  # noqa: F401  else TFDS would fail half-way without it
    except ImportError as error:
        message = f"cannot import TensorFlow ({error}): {how_to_install('prepare')}"
        raise UserError(message) from error
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(args.name, data_dir=str(expanded(args.dir)))
        builder.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD)
    except tfds.core.DatasetNotFoundError as error:
        message = f"TFDS has no data set {args.name}; its catalogue: tensorflow.org/datasets"
        raise UserError(message) from error
    except UserError:
        raise
    except Exception as error:  # an unknown version, archives to be fetched by hand, no network
        reason = " ".join(str(error).split())
        raise UserError(f"TFDS cannot prepare {args.name}: {reason}") from error
    print(f"{builder.info.full_name} is in {builder.data_dir}")


if __name__ == "__main__":
    run_script(main)
