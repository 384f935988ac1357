"""TensorFlow Datasets, read as ArrayRecord without TensorFlow."""

import importlib.util
import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from ddpm_jax.config import DataConfig
from ddpm_jax.data.sources import Source, check_channels, first_line
from ddpm_jax.data.transforms import decode_image
from ddpm_jax.errors import UserError, how_to_install
from ddpm_jax.runtime import processes
from ddpm_jax.runtime.files import expanded

DEFAULT_DIR = "~/tensorflow_datasets"
PACKAGE_PARENT = Path(__file__).resolve().parents[2]
logger = logging.getLogger("ddpm_jax")


def prepared_versions(folder: Path) -> dict[str, Path]:
    """Folders in `folder` that hold a prepared version, such as "3.0.2", newest last."""
    if not folder.is_dir():
        return {}
    found = {
        child.name: child
        for child in folder.iterdir()
        if re.fullmatch(r"\d+\.\d+\.\d+", child.name) and (child / "dataset_info.json").is_file()
    }
    return dict(sorted(found.items(), key=lambda item: tuple(map(int, item[0].split(".")))))


def find_prepared(spec: str, root: Path) -> Path | None:
    """The folder under `root` of `spec`, NAME[/CONFIG][:VERSION]: the newest version by default.

    Raises:
      UserError: the set has configurations there, and `spec` names none.
    """
    name, _, version = spec.partition(":")
    versions = prepared_versions(root / name)
    if version:
        return versions.get(version)
    if versions:
        return list(versions.values())[-1]
    if (root / name).is_dir() and "/" not in name:
        configs = sorted(d.name for d in (root / name).iterdir() if prepared_versions(d))
        if configs:
            raise UserError(
                f"tfds:{name} is prepared in configurations: {', '.join(configs)}; "
                f"choose one, as in tfds:{name}/{configs[0]}"
            )
    return None


def prepare(spec: str, root: Path) -> None:
    """Prepares `spec` under `root` in another process, the only one that imports TensorFlow.

    Raises:
      UserError: TensorFlow isn't installed, or the process failed.
    """
    command = ["-m", "ddpm_jax.data.prepare", spec, "--dir", str(root)]
    shown = f"python {' '.join(command)}"
    if importlib.util.find_spec("tensorflow") is None:
        have = ", ".join(prepared_versions(root / spec.partition(":")[0]))
        raise UserError(
            f"tfds:{spec} is not prepared in {root}{f' (only {have})' if have else ''}; set "
            f"--data.dir, or run again to download it after {how_to_install('prepare')}"
        )
    logger.warning("tfds:%s is not prepared in %s; running `%s`", spec, root, shown)
    path = os.pathsep.join(filter(None, [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"}
    # It downloads for minutes or hours, so its output is shown at once.
    if status := subprocess.run([sys.executable, *command], env=env).returncode:
        raise UserError(f"cannot prepare tfds:{spec}, as said above: `{shown}` ended with {status}")


class TfdsRecords:
    """Records of an ArrayRecord split. `read` is TFDS's data source, its images still encoded."""

    def __init__(
        self, spec: str, read: Any, image_key: str, label_key: str | None, channels: int
    ) -> None:
        self.spec = spec
        self.read = read
        self.image_key = image_key
        self.label_key = label_key
        self.channels = channels

    def __len__(self) -> int:
        return len(self.read)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            record = self.read[index]
            image = decode_image(io.BytesIO(record[self.image_key]), self.channels)
        except Exception as error:  # array_record: RuntimeError; protobuf and PIL: their own
            raise UserError(
                f"record {index} of tfds:{self.spec} cannot be read: {first_line(error)}; "
                "delete the set and prepare it again"
            ) from error
        label = int(record[self.label_key]) if self.label_key else -1
        if self.label_key and label < 0:
            raise UserError(
                f"record {index} of tfds:{self.spec} has no label; choose another data.split"
            )
        return {"x": image, "label": label}

    def overlaps(self, other: "TfdsRecords") -> bool:
        """True if both splits of the same prepared set have a record in common."""
        return any(
            file == other_file and start < other_stop and other_start < stop
            for file, start, stop in self._ranges()
            for other_file, other_start, other_stop in other._ranges()
        )

    def _ranges(self) -> list[tuple[str, int, int]]:
        """(file, first record, end) of the records that the split takes from each file."""
        ranges = []
        for shard in self.read.dataset_info.splits[self.read.split].file_instructions:
            stop = shard.examples_in_shard if shard.take < 0 else shard.skip + shard.take
            ranges.append((str(shard.filename), shard.skip, stop))
        return ranges


def open_split(spec: str, builder: Any, split: str, image_key: str) -> Any:
    """TFDS's data source of `split`, such as "train", "train+test" or "train[:90%]".

    Raises:
      UserError: there is no such split or it is empty, or it isn't ArrayRecord.
    """
    import tensorflow_datasets as tfds

    formats = builder.info.available_file_formats()
    if tfds.core.FileFormat.ARRAY_RECORD not in formats:
        have = ", ".join(sorted(f.value for f in formats)) or "no known format"
        raise UserError(
            f"tfds:{spec} in {builder.data_dir} is prepared as {have}, not array_record; move it "
            f"away and run `python -m ddpm_jax.data.prepare {spec} --dir DIR`"
        )
    try:
        # TFDS would decode with OpenCV if it is there and with PIL otherwise: two answers for JPEG.
        decoders = {image_key: tfds.decode.SkipDecoding()}
        read = builder.as_data_source(split, decoders=decoders, file_format="array_record")
        if len(read) == 0:
            raise ValueError("it is empty")
    except ValueError as error:
        have = ", ".join(builder.info.splits)
        raise UserError(
            f"data.split is {split!r}, but the splits of tfds:{spec} are {have}; "
            "join several with +, cut one as in train[:90%]"
        ) from error
    return read


def find_or_prepare(spec: str, root: Path) -> Path:
    """The folder of `spec` under `root`. Prepares the set first if it isn't there.

    Raises:
      UserError: as `find_prepared` and `prepare`, or the set isn't there afterwards.
    """
    if (folder := find_prepared(spec, root)) is None:
        prepare(spec, root)
        folder = find_prepared(spec, root)
    if folder is None:
        raise UserError(f"tfds:{spec} was prepared, but not in {root}; check its name and version")
    return folder


def find_image_feature(spec: str, features: dict[str, Any], data: DataConfig) -> str:
    """The key of the first image feature; raises UserError unless it can be used."""
    import tensorflow_datasets as tfds

    images = [key for key, f in features.items() if isinstance(f, tfds.features.Image)]
    if not images:
        raise UserError(f"tfds:{spec} has no images; its features are {', '.join(features)}")
    image = features[images[0]]
    if image.np_dtype.kind != "u":
        raise UserError(f"tfds:{spec} has {image.np_dtype} images; only integer ones can be used")
    if image.shape[-1] in (1, 3):  # else the number varies, or the fourth is transparency
        check_channels(f"tfds:{spec}", image.shape[-1], data)
    return images[0]


def load_tfds(data: DataConfig) -> Source:
    """Opens the set of `data.name`, tfds:NAME[/CONFIG][:VERSION]. Prepares it first if need be.

    Its first image feature is the example, its first `ClassLabel`, if any, the label. Secret labels
    of test splits are stored as -1: a split whose first or last label is -1 counts as unlabelled.

    Raises:
      UserError: it is neither prepared nor can be, can't be read, holds no 8-bit images, or doesn't
        fit `data.split` and `data.channels`.
    """
    spec = data.name.removeprefix("tfds:")
    root = expanded(data.dir or DEFAULT_DIR)
    folder = processes.on_main_process(lambda: find_or_prepare(spec, root))

    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
        features = dict(builder.info.features.items())
    except Exception as error:  # JSON, protobuf and TFDS each raise their own
        raise UserError(
            f"{folder} is no readable TFDS data set: {first_line(error)}; "
            "delete it and run again to prepare it anew"
        ) from error
    image_key = find_image_feature(spec, features, data)
    labels = [key for key, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    read = open_split(spec, builder, data.split, image_key)
    unlabelled = TfdsRecords(spec, read, image_key, None, data.channels)
    ends = (0, len(unlabelled) - 1)
    for index in ends:  # a missing or cut file is an error now, not in an hour
        unlabelled[index]
    hidden = bool(labels) and any(read[index][labels[0]] < 0 for index in ends)
    label_key = labels[0] if labels and not hidden else None
    records = TfdsRecords(spec, read, image_key, label_key, data.channels)
    names = tuple(features[label_key].names) if label_key else ()
    return Source(data.name, records, len(names), names)
