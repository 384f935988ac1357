"""Images a second of FID's Inception network beside pytorch-fid's own, in turn on this machine.

    pip install -e '.[interop,peers]'
    python -m benchmarks.inception --rounds 7 --json FILE

Both have the same random weights and see the same batch; the features must agree first. Ours
includes the resize from 32x32, theirs too.
"""

import importlib
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddpm_jax.config import ParallelConfig, command_line
from ddpm_jax.evaluation.features import inception_on
from ddpm_jax.interop.inception_weights import convert, state_dict_shapes
from ddpm_jax.interop.weight_files import Weights
from ddpm_jax.runtime import devices


@dataclass(frozen=True)
class Args:
    batch_size: int = 50  # pytorch-fid's default
    rounds: int = 7  # measurements of each, in turn
    json: Path | None = None  # file for the figures


def random_state_dict(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights in PyTorch's names under which activations keep their size."""
    rng = np.random.default_rng(seed)

    def array(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) > 1:
            fan_in = np.prod(shape[1:])
            return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)
        ones = name.endswith(("bn.weight", "running_var"))
        return np.full(shape, 1.0 if ones else 0.0, np.float32)

    return {name: array(name, shape) for name, shape in state_dict_shapes().items()}


def parameters(weights: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Ours of those weights."""
    shapes = {name: array.shape for name, array in weights.items()}
    return jax.device_put(convert(Weights(shapes, weights.__getitem__)))


def load_torchvision() -> None:
    """Imports torchvision. A wheel for GPUs lacks operators beside a torch for CPUs: declares them.

    No evaluator calls them.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        import torch

        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


def theirs(weights: dict[str, np.ndarray]) -> Any:
    """pytorch-fid's network as `extract(images)`."""
    import torch

    load_torchvision()
    from pytorch_fid import inception

    given = {name: torch.from_numpy(array) for name, array in weights.items()}
    given |= {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(0)
        for name in weights
        if name.endswith("running_mean")
    }
    inception.load_state_dict_from_url = lambda *args, **options: given
    network = inception.InceptionV3([3]).eval()

    def extract(images: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(images.transpose(0, 3, 1, 2) / np.float32(255))
        with torch.no_grad():
            return network(x)[0][..., 0, 0].numpy()

    return extract


def main() -> None:
    args = command_line.parse(Args, sys.argv[1:], description=__doc__)
    devices.use_every_core()
    weights = random_state_dict()
    mesh = devices.make_mesh(ParallelConfig(), args.batch_size)
    ours = inception_on(mesh, parameters(weights), "pytorch_fid", args.batch_size)
    peers = {"ours": lambda images: ours(images).pool, "pytorch_fid": theirs(weights)}
    images = np.random.default_rng(0).integers(0, 256, (args.batch_size, 32, 32, 3), np.uint8)
    found = [extract(images) for extract in peers.values()]
    np.testing.assert_allclose(*found, rtol=0, atol=1e-3 * np.abs(found[1]).max())

    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(args.rounds):
        for name, extract in peers.items():
            start = time.perf_counter()
            extract(images)
            seconds[name].append(time.perf_counter() - start)
    rates = {name: args.batch_size / statistics.median(of) for name, of in seconds.items()}
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    for name, rate in rates.items():
        print(f"{name}: {rate:.1f} images/s")
    print(f"ours / pytorch_fid: {statistics.median(ratios):.2f}")
    if args.json is not None:
        figures = {"settings": asdict(args) | {"json": None}, "seconds": seconds}
        args.json.write_text(json.dumps(figures | {"images_per_second": rates}, indent=2) + "\n")


if __name__ == "__main__":
    main()
