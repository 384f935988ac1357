"""How a folder's images get their classes: from sub-folders, from file names or from a CSV file."""

import csv
import re
from collections import defaultdict
from pathlib import PurePosixPath

from ddpm_jax.errors import UserError, closest
from ddpm_jax.runtime.files import expanded

MAX_LABEL = 2**31 - 1


def label_images(paths: list[str], how: str) -> tuple[list[int], int, tuple[str, ...]]:
    """The labels of a folder's images, the number of classes and their names.

    Classes are numbered in the sorted order of their names, but integers of a CSV file are labels
    as they are.

    Args:
      paths: of the images in the folder, with "/" between the parts.
      how: `DataConfig.labels`. "folders": each first-level sub-folder is a class, if every image
        lies in one. "names": the class is what stands before the first "_" of the file's name, as
        in the original code. Else the path of a CSV file with rows `file,label`.

    Returns:
      labels, all -1 if there are no classes; their number; their names, () for integers of a CSV
      file.

    Raises:
      UserError: `how` is none of these, or doesn't label every image.
    """
    if how == "folders":
        if not all("/" in path for path in paths):
            return [-1] * len(paths), 0, ()
        return _numbered([path.split("/", 1)[0] for path in paths])
    if how == "names":
        return _numbered(_classes_of_names(paths))
    labels = _read_csv(how, paths)
    if not all(re.fullmatch(r"[+-]?\d+", label) for label in labels):
        return _numbered(labels)
    numbers = [int(label) for label in labels]
    for label in (min(numbers), max(numbers)):
        if not 0 <= label <= MAX_LABEL:
            raise UserError(f"{how}: label {label} must be 0 or more, and below 2^31")
    return numbers, max(numbers) + 1, ()


def describe_strays(paths: list[str]) -> str:
    """Says which images lie beside sub-folders and so keep these from being classes; "" if none."""
    strays = [path for path in paths if "/" not in path]
    folders = {path.split("/", 1)[0] for path in paths if "/" in path}
    if not strays or not folders:
        return ""
    beside = f"beside {len(folders)} folder{'s' * (len(folders) > 1)} of images"
    if len(strays) == 1:
        return f"{strays[0]} lies {beside}: move it into one of them or take it away"
    return (
        f"{strays[0]} and {len(strays) - 1} more lie {beside}: move them into one of them or take "
        "them away"
    )


def _numbered(classes: list[str]) -> tuple[list[int], int, tuple[str, ...]]:
    names = tuple(sorted(set(classes)))
    number = {name: i for i, name in enumerate(names)}
    return [number[name] for name in classes], len(names), names


def _classes_of_names(paths: list[str]) -> list[str]:
    classes = [PurePosixPath(path).stem.split("_")[0] for path in paths]
    if len(set(classes)) == len(paths) > 1:
        raise UserError(
            f"data.labels is names, but no two of the {len(paths)} images share what stands "
            f"before the first _ of their names, as in {PurePosixPath(paths[0]).name}; name "
            "them CLASS_ANYTHING, or set --data.labels to folders or a CSV file"
        )
    return classes


def _read_csv(file: str, paths: list[str]) -> list[str]:
    """The label of each of `paths`; raises UserError unless each has one.

    A row may give an image's path in the folder, or its name alone if no other image has it.
    """
    rows = _rows(file)
    by_path = {path: i for i, path in enumerate(paths)}
    by_name = defaultdict(list)
    for i, path in enumerate(paths):
        by_name[PurePosixPath(path).name].append(i)

    labels: dict[int, str] = {}
    missing = []
    for line, name, label in rows:
        matches = [by_path[name]] if name in by_path else by_name[name]
        if len(matches) > 1:
            both = f"{paths[matches[0]]} and {paths[matches[1]]}"
            raise UserError(f"{file} line {line}: {name} may be {both}; give the path")
        if not matches:
            missing.append(name)
        elif labels.setdefault(matches[0], label) != label:
            raise UserError(
                f"{file} line {line}: {name} is {label}, but {labels[matches[0]]} on a line before"
            )
    if missing:
        raise UserError(
            f"{file}: {len(missing)} of {len(rows)} rows name no image of the folder, the first "
            f"{missing[0]}; correct them or take them out"
        )
    unlabelled = [path for i, path in enumerate(paths) if i not in labels]
    if unlabelled:
        raise UserError(
            f"{file} has no label for {len(unlabelled)} of {len(paths)} images, the first "
            f"{unlabelled[0]}; add rows such as {unlabelled[0]},LABEL"
        )
    return [labels[i] for i in range(len(paths))]


def _rows(file: str) -> list[tuple[int, str, str]]:
    """(line number, image, label) of each row of a CSV file, without a header."""
    try:
        with expanded(file).open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.reader(opened, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except (FileNotFoundError, IsADirectoryError) as error:
        close = closest(file, ["folders", "names"])
        hint = f"; did you mean {close}?" if close else ""
        raise UserError(
            f"data.labels is {file!r}; it must be folders, names or a CSV file that exists{hint}"
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"data.labels: cannot read {file} as CSV: {reason}") from error
    for line, cells in rows:
        if len(cells) != 2 or not all(cells):
            raise UserError(
                f"{file} line {line}: {','.join(cells)!r} must be two values, as in cats/1.png,3"
            )
    named = [(line, PurePosixPath(name).as_posix(), label) for line, (name, label) in rows]
    header = named and not PurePosixPath(named[0][1]).suffix
    return named[1:] if header else named
