"""Prepared TFDS sets of a few made-up records, written without TensorFlow."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

Record = dict[str, Any]


def write_tfds(
    root: Path,
    name: str,
    features: Record,
    splits: dict[str, Sequence[Record]],
    version: str = "1.0.0",
    file_format: str = "array_record",
) -> Path:
    """Writes NAME[/CONFIG] below `root`, as ArrayRecord whatever `file_format` it then claims.

    Images are uint8 arrays [H, W, C].
    """
    folder = root / name / version
    folder.mkdir(parents=True)
    tfds.features.FeaturesDict(features).save_config(str(folder))
    builder = name.partition("/")[0]
    infos = []
    for split, records in splits.items():
        path = folder / f"{builder}-{split}.array_record-00000-of-00001"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(_example(record))
        writer.close()
        infos.append(
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": "9",
                "shardLengths": [str(len(records))],
            }
        )
    info = {"name": builder, "version": version, "fileFormat": file_format, "splits": infos}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def _example(record: Record) -> bytes:
    example = tf_example_pb2.Example()
    for key, value in _flat(record):
        field = example.features.feature[key]
        if isinstance(value, np.ndarray):
            file = io.BytesIO()
            Image.fromarray(value[..., 0] if value.shape[-1] == 1 else value).save(file, "PNG")
            field.bytes_list.value.append(file.getvalue())
        elif isinstance(value, bytes):
            field.bytes_list.value.append(value)
        elif isinstance(value, list):
            field.float_list.value.extend(value)
        else:
            field.int64_list.value.append(value)
    return example.SerializeToString()


def _flat(record: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value
