"""Size and CRC-32 of each file of a checkpoint, by which a damaged one is found."""

import json
import zlib
from collections.abc import Collection
from pathlib import Path

import tensorstore

from ddpm_jax.runtime.files import replacing

CHECKSUMS = "files.json"  # in a checkpoint: {file: [bytes, CRC-32]}


def write_checksums(path: Path) -> None:
    """Writes down size and CRC-32 of every file of a checkpoint: 0.3 s for 300 MB in the cache."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    sums = {file.relative_to(path).as_posix(): _size_and_crc32(file) for file in files}
    with replacing(path / CHECKSUMS) as temporary:
        temporary.write_text(json.dumps(sums))


def _size_and_crc32(file: Path) -> list[int]:
    size = crc = 0
    with file.open("rb") as opened:
        while chunk := opened.read(2**24):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def check_files(path: Path, items: Collection[str]) -> None:
    """Raises ValueError or OSError if a file has changed since it was written.

    Checks the files of `items`, and those at the top that belong to no item. A run that was killed
    before it wrote the checksums has none; then every value of `items` is read once instead.
    """
    if not (path / CHECKSUMS).exists():
        for item in items:
            _read_every_value(path / item)
        return
    for name, written in json.loads((path / CHECKSUMS).read_text()).items():
        item, _, inside = name.partition("/")
        if (not inside or item in items) and _size_and_crc32(path / name) != written:
            raise ValueError(f"{name} is damaged")


def _read_every_value(path: Path) -> None:
    """Reads every stored value of an item, one by one; raises ValueError at the first damaged one.

    Orbax reads them all at once, and its threads print 1,600 lines of tracebacks about a damaged
    file. A value takes 0.5 ms.
    """
    store = tensorstore.KvStore.open(
        {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/"}}
    ).result()
    keys = store.list().result()
    if not keys:
        raise ValueError(f"{path.name} holds no arrays")
    for key in keys:
        store.read(key).result()
