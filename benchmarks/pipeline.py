"""Data alone: a folder of PNG files to batches on the host, for benchmarks/run.py.

IMAGES pieces of scikit-learn's two photographs, 64 x 64. Ours: train_batches, as training reads.
The peer: a PyTorch DataLoader with a worker for each core, whose images go the way that OpenAI's
code sends them: PIL, RGB, mirrored at random, float32 in [-1, 1], channels first. Ours leaves
pixels uint8 until they are on the device, and keeps small sets decoded after the first epoch. The
measurements begin with the second epoch; the first is reported too.
"""

import os
from pathlib import Path

import numpy as np

from benchmarks.cases import Measured, Work

SIDE, IMAGES = 64, 4096


def make_folder(folder: Path) -> None:
    """Writes the images."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        photograph = photographs[i % len(photographs)]
        y, x = (rng.integers(side - SIDE) for side in photograph.shape[:2])
        piece = Image.fromarray(photograph[y : y + SIDE, x : x + SIDE])
        piece.save(folder / f"{i:05d}.png")


def ours(work: Work) -> Measured:
    """Batches as train.py reads them."""
    from ddpm_jax import data
    from ddpm_jax.config import DataConfig

    config = DataConfig(f"folder:{work.folder}", image_size=SIDE, channels=3, flip=True)
    source = data.load_source(config)
    batches = data.train_batches(source, config, work.batch_size, seed=0)

    def run() -> None:
        for _ in range(work.count):
            next(batches)

    return Measured(run, lambda: {"shape": np.array(next(batches)["x"].shape)})


def torch_loader(work: Work) -> Measured:
    """Batches of a DataLoader, epoch after epoch."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    paths = sorted(Path(work.folder).glob("*.png"))

    class Images(Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> np.ndarray:
            with Image.open(paths[index]) as image:
                pixels = np.array(image.convert("RGB"))
            if torch.rand(()) < 0.5:
                pixels = pixels[:, ::-1]
            return np.transpose(pixels.astype(np.float32) / 127.5 - 1, (2, 0, 1))

    loader = DataLoader(
        Images(),
        work.batch_size,
        shuffle=True,
        num_workers=len(os.sched_getaffinity(0)),
        drop_last=True,
        persistent_workers=True,
        multiprocessing_context="fork",
    )

    def endless():
        while True:
            yield from loader

    batches = endless()

    def run() -> None:
        for _ in range(work.count):
            next(batches)

    def check() -> dict[str, np.ndarray]:
        batch, channels, *sides = next(batches).shape
        return {"shape": np.array([batch, *sides, channels])}

    return Measured(run, check)
