"""Folders of PNG, JPEG and WebP images.

How images get their classes is in `folder_labels`.
"""

import errno
import logging
import os
import threading
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ddpm_jax.config import DataConfig
from ddpm_jax.data.folder_labels import describe_strays, label_images
from ddpm_jax.data.sources import Source, first_line
from ddpm_jax.data.transforms import decode_image
from ddpm_jax.errors import RunError, UserError
from ddpm_jax.runtime import processes
from ddpm_jax.runtime.files import expanded

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Errors of the file itself, such as a dangling link: reading it again would fail again.
FILE_ERRORS = {
    *(errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.EINVAL),
}
NAMED_BROKEN = 20  # further ones are only counted: 1 % of ImageNet would be 12,000 lines
logger = logging.getLogger("ddpm_jax")


def find_images(root: Path) -> tuple[list[str], list[str]]:
    """The images under `root` and the other files there, as sorted paths with "/" between parts.

    Links are followed, except to a folder that contains them, which would never end. Hidden files
    and folders are left out: macOS leaves `._NAME.png` files that are no images.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"cannot read folder {error.filename}: {error.strerror}")

    images: list[str] = []
    others: list[str] = []
    ancestors: dict[str, frozenset[str]] = {}  # real paths of a folder and of all that contain it
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=fail):
        real, above = os.path.realpath(folder), ancestors.get(os.path.dirname(folder), frozenset())
        if real in above:
            subfolders.clear()
            continue
        ancestors[folder] = above | {real}
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        inside = Path(folder).relative_to(root)
        for name in names:
            if not name.startswith("."):
                found = images if name.lower().endswith(SUFFIXES) else others
                found.append((inside / name).as_posix())
    return sorted(images), sorted(others)


def count_suffixes(paths: list[str]) -> str:
    """ "12 .gif, 3 .tiff" of files, the most frequent first; at most five kinds are named."""
    counts = Counter(Path(path).suffix.lower() or "without a suffix" for path in paths)
    listed = [f"{count} {suffix}" for suffix, count in counts.most_common(5)]
    if more := len(counts) - len(listed):
        listed.append(f"{more} other kind{'s' * (more > 1)}")
    return ", ".join(listed)


def warn_of_ignored(root: Path, others: list[str]) -> None:
    """Logs how many files of other kinds a folder has."""
    if others and processes.is_main_process():
        logger.warning(
            "ignored in %s: %s (only PNG, JPEG and WebP are read)", root, count_suffixes(others)
        )


class FolderRecords:
    """Images of a folder, decoded on access. The next good image replaces a broken one."""

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
        """Image `index`, or the first good one after it. Which one depends on the files alone.

        Raises:
          UserError: every image is broken.
          RunError: the machine failed, and the image may be good.
        """
        for offset in range(len(self)):
            i = (index + offset) % len(self)
            path = self.paths[i]
            if path in self.broken:
                continue
            try:
                image = decode_image(self.root / path, self.channels)
            except Exception as error:  # PIL: OSError, SyntaxError, ValueError, struct.error, ...
                if _may_pass(error):  # another image in its place would change the run
                    reason = first_line(error)
                    raise RunError(f"{self.root / path} cannot be read now: {reason}") from error
                self._mark_broken(path, error)
                continue
            return {"x": image, "label": self.labels[i]}
        raise UserError(
            f"none of the {len(self)} images in {self.root} can be read; "
            f"the first is {self.paths[0]}: replace them or choose another folder"
        )

    def restricted(self, indices: Collection[int]) -> "FolderRecords":
        """The images at `indices`. They replace only each other; `broken` stays shared."""
        paths, labels = [self.paths[i] for i in indices], [self.labels[i] for i in indices]
        part = FolderRecords(self.root, paths, labels, self.channels)
        part.broken, part._lock = self.broken, self._lock
        return part

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


def _may_pass(error: Exception) -> bool:
    """True if memory, the disk or the limit of open files failed, not the image."""
    if isinstance(error, OSError):  # those that PIL raises for a broken image have no errno
        return error.errno is not None and error.errno not in FILE_ERRORS
    return isinstance(error, MemoryError)


def load_folder(data: DataConfig) -> Source:
    """Opens the folder of `data.name`, folder:PATH, its images labelled as `data.labels` says.

    Raises:
      UserError: PATH is no folder, holds no readable image, or isn't labelled as it should be.
    """
    path = data.name.removeprefix("folder:")
    root = expanded(path)
    if not root.exists():
        raise UserError(f"folder {path} does not exist; check --data.name {data.name}")
    if not root.is_dir():
        raise UserError(f"{path} is a file; data.name must be folder:PATH of a folder of images")
    images, others = find_images(root)
    if not images:
        has = f", only {count_suffixes(others)}" if others else ""
        raise UserError(f"folder {path} has no PNG, JPEG or WebP images{has}; put some there")
    labels, num_classes, class_names = label_images(images, data.labels)
    warn_of_ignored(root, [other for other in others if not _is_same(root / other, data.labels)])
    records = FolderRecords(root, images, labels, data.channels)
    records[0]  # a folder without one good image is an error now, not in a reader thread later
    because = "" if num_classes else describe_strays(images)
    return Source(data.name, records, num_classes, class_names, unlabelled_because=because)


def _is_same(file: Path, labels: str) -> bool:
    """True if `file` is the CSV file that `data.labels` names."""
    return file.name == Path(labels).name and file.samefile(expanded(labels))
