"""The one pipeline: records to batches, the same ones on any number of hosts and after any stop."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ddpm_jax.config import DataConfig
from ddpm_jax.data.sources import Source
from ddpm_jax.data.transforms import centre_crop, flip
from ddpm_jax.errors import UserError

CACHE_BYTES = 2**30  # sets up to this size, once cropped, are decoded once and kept


class CroppedRecords:
    """Records with images cropped to `data.image_size`; kept after the first reading if they fit.

    Decoding CIFAR-10 from ArrayRecord gives some 3000 images a second on two cores, memory 15000.
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
        record = self.source.records[index]
        x, label = record["x"], np.int32(record["label"])
        if x.ndim == 3:
            x = centre_crop(x, self.size)
        if self.keep:
            self.images[index], self.labels[index] = x, label
            self.filled[index] = True  # last: another thread may be asking
        return {"x": x, "label": label}


class Batches:
    """Endless batches. Close it, or use it in a `with` statement, to stop its reading threads."""

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
    """This process's part of the batches of steps `start_step`, `start_step` + 1, ...

    The global batch of a step depends on (`seed`, step) alone: the parts of all processes,
    concatenated in order, are the batch that one process alone would get. Every epoch is a new
    permutation of the source; batches run on across its end, so no example is left out.

    Args:
      source: the examples.
      data: its `image_size`, `channels` and `flip` are used.
      batch_size: examples a step over all processes.
      seed: of the order and the flips, 0 to 2**32 - 1.
      start_step: step of the first batch; costs the same for every step.
      process_index: this process, 0 to `process_count` - 1.
      process_count: processes that share each batch.

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

    def random_flip(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return {"x": flip(example["x"], rng), "label": example["label"]}

    dataset = grain.MapDataset.source(CroppedRecords(source, data)).seed(seed).shuffle().repeat()
    if data.flip:
        dataset = dataset.random_map(random_flip)
    # Batch first, slice by process second: the other order gives other batches on two hosts.
    dataset = dataset.batch(batch_size // process_count, drop_remainder=True)
    dataset = dataset[process_index::process_count]
    iterator = iter(dataset.to_iter_dataset(read_options(source)))
    iterator.set_state({"next_index": start_step})
    return Batches(iterator)


def read_options(source: Source) -> Any:
    """Threads and prefetched batches: none for sets in memory, where threads only contend."""
    import grain

    if source.in_memory:
        return grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    threads = min(16, max(2, os.cpu_count() or 1))
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
