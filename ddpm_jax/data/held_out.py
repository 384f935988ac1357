"""Examples held out from training, to validate on."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm_jax.config import DataConfig
from ddpm_jax.data.folder import FolderRecords
from ddpm_jax.data.loading import load_source
from ddpm_jax.data.sources import Records, Source
from ddpm_jax.data.tfds_source import TfdsRecords
from ddpm_jax.errors import UserError


@dataclass(frozen=True)
class Subset:
    """The records of a set at `indices`, int [N]."""

    records: Records
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.records[int(self.indices[index])]


def record_name(source: Source, index: int) -> int | str:
    """The record's path in its folder, or else its index in the whole set."""
    records = source.records
    if isinstance(records, FolderRecords):
        return records.paths[index]
    return int(records.indices[index]) if isinstance(records, Subset) else index


def hold_out(source: Source, data: DataConfig) -> tuple[Source, Source | None]:
    """The examples to train on and those to validate on, None without `data.held_out`.

    A share such as "10%" is chosen by a fixed permutation, which the run's seed does not change.
    Anything else is another split of a TFDS set.

    Raises:
      UserError: there is no such split, it shares examples with the split to train on or has other
        classes, or one of the two would be empty.
    """
    if not data.held_out:
        return source, None
    share = re.fullmatch(r"(\d+(?:\.\d+)?)%", data.held_out)
    if share is None:
        if not data.name.startswith("tfds:"):
            raise UserError(
                f"--data.held-out {data.held_out}: {data.name} has no splits; give a share, 10%"
            )
        return source, _other_split(source, data)
    percent = float(share[1])
    if not 0 < percent < 100:
        raise UserError(f"--data.held-out {data.held_out}: must be above 0% and below 100%")
    count = round(len(source) * percent / 100)
    if not 0 < count < len(source):
        raise UserError(
            f"--data.held-out {data.held_out}: leaves {len(source) - count} of {len(source)} "
            f"examples to train on and {count} to validate on; both need one at least"
        )
    order = np.random.default_rng(0).permutation(len(source))
    # The held-out examples stay in random order, so that the first few represent them all.
    held_out, kept = order[:count], np.sort(order[count:])
    return subset(source, kept), subset(source, held_out)


def subset(source: Source, indices: np.ndarray) -> Source:
    """The examples at `indices`, int [N], in this order."""
    if isinstance(source.records, FolderRecords):
        return dataclasses.replace(source, records=source.records.restricted(indices))
    return dataclasses.replace(source, records=Subset(source.records, indices))


def _other_split(source: Source, data: DataConfig) -> Source:
    option = f"--data.held-out {data.held_out}"
    try:
        other = load_source(dataclasses.replace(data, split=data.held_out))
    except UserError as error:
        raise UserError(str(error).replace("data.split", "data.held_out")) from error
    ours, theirs = source.records, other.records
    if isinstance(ours, TfdsRecords) and isinstance(theirs, TfdsRecords) and ours.overlaps(theirs):
        raise UserError(
            f"{option}: shares examples with --data.split {data.split}; give another split, or a "
            "share as in 10%"
        )
    if other.num_classes != source.num_classes:
        counts = (other.num_classes, source.num_classes)
        has, wanted = (f"{count} classes" if count else "no labels" for count in counts)
        raise UserError(f"{option}: has {has}, but --data.split {data.split} has {wanted}")
    return other
