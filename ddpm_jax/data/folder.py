"""Folders of PNG, JPEG and WebP images."""

import errno
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.config import DataConfig
from ddpm_jax.data.labels import label_images
from ddpm_jax.data.sources import Source, first_line
from ddpm_jax.data.transforms import decode_image
from ddpm_jax.errors import RunError, UserError
from ddpm_jax.runtime.files import expanded

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# What a link to nowhere, a forbidden file and the like fail with, each time they are read.
OF_THE_FILE = {
    *(errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.EINVAL),
}
NAMED_BROKEN = 20  # more are counted only: 1 % of ImageNet would be 12,000 lines
logger = logging.getLogger("ddpm_jax")


def find_images(root: Path) -> list[str]:
    """Images under `root`, as sorted relative paths with "/" between the parts.

    Links are followed, but not to a folder that they lie in, which would never end. Hidden files
    and folders are left out: macOS leaves `._NAME.png` files that are no images.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"cannot read folder {error.filename}: {error.strerror}")

    found: list[str] = []
    lines: dict[str, frozenset[str]] = {}  # the real paths of a folder and of those it lies in
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=fail):
        real, above = os.path.realpath(folder), lines.get(os.path.dirname(folder), frozenset())
        if real in above:
            subfolders.clear()
            continue
        lines[folder] = above | {real}
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        inside = Path(folder).relative_to(root)
        found += [
            (inside / name).as_posix()
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found)


class FolderRecords:
    """Images decoded when asked for. The next good image stands in for a broken one."""

    def __init__(self, root: Path, paths: list[str], labels: list[int], channels: int) -> None:
        self.root = root
        self.paths = paths
        self.labels = labels
        self.channels = channels
        self.broken: set[str] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Image `index`, or the first good one after it, which depends on the files alone.

        Raises:
          UserError: every image is broken.
          RunError: the machine, not the file, is why an image cannot be read now.
        """
        for offset in range(len(self)):
            i = (index + offset) % len(self)
            path = self.paths[i]
            if path in self.broken:
                continue
            try:
                image = decode_image(self.root / path, self.channels)
            except Exception as error:  # PIL: OSError, SyntaxError, ValueError, struct.error, ...
                if _passing(error):  # another image in its place would make it another run
                    reason = first_line(error)
                    raise RunError(f"{self.root / path} cannot be read now: {reason}") from error
                self._mark_broken(path, error)
                continue
            return {"x": image, "label": self.labels[i]}
        raise UserError(
            f"none of the {len(self)} images in {self.root} can be read; "
            f"the first is {self.paths[0]}: replace them or choose another folder"
        )

    def restricted(self, indices: Sequence[int]) -> "FolderRecords":
        """Some of the images, which stand in for each other alone; all know what is broken."""
        paths, labels = ([of[i] for i in indices] for of in (self.paths, self.labels))
        some = FolderRecords(self.root, paths, labels, self.channels)
        some.broken, some._lock = self.broken, self._lock
        return some

    def _mark_broken(self, path: str, error: Exception) -> None:
        with self._lock:
            if path in self.broken:
                return
            self.broken.add(path)
            count = len(self.broken)
        name, reason = self.root / path, first_line(error)
        if count <= NAMED_BROKEN:
            logger.warning("%s is broken, another image takes its place: %s", name, reason)
        elif count == NAMED_BROKEN + 1:
            logger.warning("more images are broken; they are counted at the end")


def _passing(error: Exception) -> bool:
    """Whether an image may be whole all the same: memory, open files or the disk fail."""
    if isinstance(error, OSError):  # PIL's own have no number
        return error.errno is not None and error.errno not in OF_THE_FILE
    return isinstance(error, MemoryError)


def load_folder(path: str, data: DataConfig) -> Source:
    """Opens `folder:PATH`, its images labelled as `data.labels` says.

    Raises:
      UserError: PATH is no folder, holds no readable image, or isn't labelled as it should be.
    """
    root = expanded(path)
    if not root.exists():
        raise UserError(f"folder {path} does not exist; check data.name ({data.name})")
    if not root.is_dir():
        raise UserError(f"{path} is a file; data.name must be folder:PATH of a folder of images")
    paths = find_images(root)
    if not paths:
        raise UserError(f"folder {path} has no PNG, JPEG or WebP images; put some there")
    labels, num_classes, class_names = label_images(paths, data.labels)
    records = FolderRecords(root, paths, labels, data.channels)
    records[0]  # a folder without one good image is an error now, not in a reader thread later
    return Source(data.name, records, num_classes, class_names)
