"""Labels of a folder's images: by sub-folder, by file name or by a CSV file."""

import csv
import difflib
import re
from collections import defaultdict
from pathlib import PurePosixPath

from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import expanded

MAX_LABEL = 2**31 - 1


def label_images(paths: list[str], how: str) -> tuple[list[int], int, tuple[str, ...]]:
    """Labels of images, by their paths in the folder with "/" between the parts.

    Args:
      paths: the images.
      how: `DataConfig.labels`: "folders", the first-level sub-folder if all images are in some;
        "names", what stands before the first "_" of the file's name, as in the original code; or
        the path of a CSV file of rows `file,label`. Labels that are no integers are numbered in
        their sorted order.

    Returns:
      The labels, -1 throughout where there are none; the number of classes, 0 for none; their
      names, none for the integers of a CSV file.

    Raises:
      UserError: there is no such way or file, or it doesn't label every image.
    """
    if how == "folders":
        if not all("/" in path for path in paths):
            return [-1] * len(paths), 0, ()
        return _numbered([path.split("/", 1)[0] for path in paths])
    if how == "names":
        found = _numbered([PurePosixPath(path).stem.split("_")[0] for path in paths])
        if found[1] == len(paths) > 1:
            raise UserError(
                f"data.labels is names, but no two of the {len(paths)} images share what stands "
                f"before the first _ of their names, as in {PurePosixPath(paths[0]).name}; name "
                "them CLASS_ANYTHING, or set --data.labels to folders or a CSV file"
            )
        return found
    labels = _read_csv(how, paths)
    if not all(re.fullmatch(r"[+-]?\d+", label) for label in labels):
        return _numbered(labels)
    numbers = [int(label) for label in labels]
    for label in (min(numbers), max(numbers)):
        if not 0 <= label <= MAX_LABEL:
            raise UserError(f"{how}: label {label} must be 0 or more, and below 2^31")
    return numbers, max(numbers) + 1, ()


def _numbered(classes: list[str]) -> tuple[list[int], int, tuple[str, ...]]:
    names = tuple(sorted(set(classes)))
    number = {name: i for i, name in enumerate(names)}
    return [number[name] for name in classes], len(names), names


def _read_csv(file: str, paths: list[str]) -> list[str]:
    """The label of each of `paths`; raises UserError unless each has one."""
    rows = _rows(file)
    places = {path: i for i, path in enumerate(paths)}
    bare = defaultdict(list)
    for i, path in enumerate(paths):
        bare[PurePosixPath(path).name].append(i)

    labels: list[str | None] = [None] * len(paths)
    missing = []
    for line, name, label in rows:
        matches = [places[name]] if name in places else bare[name]
        if len(matches) > 1:
            both = f"{paths[matches[0]]} and {paths[matches[1]]}"
            raise UserError(f"{file} line {line}: {name} may be {both}; give the path")
        if not matches:
            missing.append(name)
        elif labels[matches[0]] not in (None, label):
            raise UserError(
                f"{file} line {line}: {name} is {label}, but {labels[matches[0]]} on a line before"
            )
        else:
            labels[matches[0]] = label
    if missing:
        raise UserError(
            f"{file}: {len(missing)} of {len(rows)} rows name no image of the folder, the first "
            f"{missing[0]}; correct them or take them out"
        )
    if None in labels:
        raise UserError(
            f"{file} has no label for {labels.count(None)} of {len(paths)} images, the first "
            f"{paths[labels.index(None)]}; add rows such as {paths[labels.index(None)]},LABEL"
        )
    return labels


def _rows(file: str) -> list[tuple[int, str, str]]:
    """(line, file, label) of each row of a CSV file but its header."""
    try:
        with expanded(file).open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.reader(opened, strict=True)
            rows = [(reader.line_num, *(cell.strip() for cell in row)) for row in reader if row]
    except (FileNotFoundError, IsADirectoryError) as error:
        close = difflib.get_close_matches(file, ["folders", "names"], n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(
            f"data.labels is {file!r}; it must be folders, names or a CSV file that exists{hint}"
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"data.labels: cannot read {file} as CSV: {reason}") from error
    for line, *cells in rows:
        if len(cells) != 2 or not all(cells):
            raise UserError(
                f"{file} line {line}: {','.join(cells)!r} must be two values, as in cats/1.png,3"
            )
    rows = [(line, PurePosixPath(name).as_posix(), label) for line, name, label in rows]
    header = rows and not PurePosixPath(rows[0][1]).suffix
    return rows[1:] if header else rows


def check_num_classes(config: Config, num_classes: int) -> None:
    """Raises UserError unless the labels of the data are those that the model expects."""
    wanted = config.model.num_classes
    if wanted and wanted != num_classes:
        has = f"has {num_classes} classes" if num_classes else "has no labels"
        split = f" (split {config.data.split})" if config.data.name.startswith("tfds:") else ""
        raise UserError(
            f"--model.num-classes {wanted}: {config.data.name}{split} {has}; "
            f"set it to {num_classes}{' (unconditional)' if not num_classes else ''}"
        )
