"""From records to batches: the same batches on any number of hosts and after any stop."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from ddpm_jax.config import DataConfig
from ddpm_jax.data.sources import Source
from ddpm_jax.data.transforms import centre_crop, flip, random_crop
from ddpm_jax.errors import UserError

CACHE_BYTES = 2**30  # cropped images of up to this size in all are decoded once and kept


class CroppedRecords:
    """Records with images centre-cropped to `data.image_size`, in the order of the source.

    Keeps them in memory if they fit into CACHE_BYTES. Two cores decode some 3,000 images of
    CIFAR-10 a second from ArrayRecord, and read 15,000 from memory.
    """

    def __init__(self, source: Source, data: DataConfig) -> None:
        self.source = source
        self.size = data.image_size
        shape = (len(source), data.image_size, data.image_size, data.channels)
        self.keep = not source.in_memory and np.prod(shape) <= CACHE_BYTES
        if self.keep:
            self.images = np.empty(shape, np.uint8)
            self.labels = np.empty(len(source), np.int32)
            self.filled = np.zeros(len(source), bool)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.keep and self.filled[index]:
            return {"x": self.images[index], "label": self.labels[index]}
        cropped = _cropped(self.source.records[index], self.size)
        if self.keep:
            self.images[index], self.labels[index] = cropped["x"], cropped["label"]
            self.filled[index] = True  # last: another thread may be asking
        return cropped


def _cropped(record: dict[str, Any], size: int) -> dict[str, Any]:
    x = record["x"]
    return {"x": centre_crop(x, size) if x.ndim == 3 else x, "label": np.int32(record["label"])}


def ordered_batches(
    source: Source, data: DataConfig, batch_size: int, count: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """The first `count` examples, or all, in the order of the source, centre-cropped, not flipped.

    Batches are like those of `train_batches`; the last may be smaller. Nothing is kept in memory.
    """
    total = len(source) if count is None else min(count, len(source))

    def read(index: int) -> dict[str, Any]:
        return _cropped(source.records[index], data.image_size)

    with ThreadPoolExecutor(1 if source.in_memory else _read_threads()) as pool:
        for start in range(0, total, batch_size):
            examples = list(pool.map(read, range(start, min(start + batch_size, total))))
            yield {key: np.stack([e[key] for e in examples]) for key in ("x", "label")}


def first_images(source: Source, data: DataConfig, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images, or all if there are fewer, centre-cropped, and their labels.

    Returns:
      uint8 [N, image_size, image_size, C] and int32 [N], -1 for no label.
    """
    (batch,) = ordered_batches(source, data, count, count)
    return batch["x"], batch["label"]


class Batches:
    """Endless batches. `close`, or the end of a `with` block, stops the threads that read."""

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._iterator)

    def close(self) -> None:
        """Stops reading; a second call does nothing."""
        self._iterator.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def train_batches(
    source: Source,
    data: DataConfig,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """This process's slices of the batches of steps `start_step`, `start_step` + 1, ...

    The global batch of a step depends on (`seed`, step) alone: the slices of all processes,
    concatenated in order, are the batch that a single process would get. Every epoch is a new
    permutation of the source. A batch may cross the end of an epoch, so no example is left out.

    Args:
      source, data: the examples, and how they are cropped and flipped.
      batch_size: examples a step over all processes.
      seed: of the order, the crops and the flips, 0 to 2**32 - 1.
      start_step: step of the first batch; a late one costs no more than 0.
      process_index, process_count: number of this process, and of all that share a batch.

    Returns:
      An iterator of {"x": uint8 [b, H, W, C] or float32 [b, 2], "label": int32 [b], -1 for none},
      b = `batch_size` / `process_count`.

    Raises:
      UserError: `batch_size` or `seed` is out of range.
    """
    import grain

    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"train.batch_size is {batch_size}; it must be a positive multiple of the number of "
            f"processes, {process_count}"
        )
    if not 0 <= seed < 2**32:
        raise UserError(f"train.seed is {seed}; it must be from 0 to 4294967295")

    # Random crops need whole images. These may be of any size and are decoded anew each time.
    records = source.records if data.random_crop else CroppedRecords(source, data)
    dataset = grain.MapDataset.source(records).seed(seed).shuffle().repeat()
    if data.flip or data.random_crop:
        dataset = dataset.random_map(partial(_augment, data))
    # Batch first, then slice by process: the other order gives other batches on two hosts.
    dataset = dataset.batch(batch_size // process_count, drop_remainder=True)
    dataset = dataset[process_index::process_count]
    iterator = iter(dataset.to_iter_dataset(read_options(source)))
    iterator.set_state({"next_index": start_step})
    return Batches(iterator)


def _augment(data: DataConfig, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    x = example["x"]
    if data.random_crop:
        x = random_crop(x, data.image_size, rng)
    return {"x": flip(x, rng) if data.flip else x, "label": np.int32(example["label"])}


def batch_indices(count: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Indices of the records in the global batch of a step, out of `count`: int [batch_size].

    `step` counts from 0, as `train_batches` does.
    """
    import grain

    order = grain.MapDataset.range(count).seed(seed).shuffle().repeat()
    return np.array([order[i] for i in range(step * batch_size, (step + 1) * batch_size)])


def read_options(source: Source) -> Any:
    """How Grain reads: without threads for sets in memory, where they would only contend."""
    import grain

    if source.in_memory:
        return grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    threads = _read_threads()
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)


def _read_threads() -> int:
    return min(16, max(2, os.cpu_count() or 1))
