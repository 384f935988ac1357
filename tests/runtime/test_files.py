"""Files that appear whole or not at all."""

import os
from pathlib import Path

import pytest

from ddpm_jax.runtime.files import replacing


@pytest.mark.parametrize("synced", [True, False])
def test_a_file_is_on_disk_before_it_takes_its_name(tmp_path, monkeypatch, synced):
    happened = []
    replace = os.replace

    def sync(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        happened.append(name.read_text() if name.is_file() else name)

    def rename(old: Path, new: Path) -> None:
        happened.append("renamed")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    with replacing(tmp_path / "new" / "file", synced) as temporary, temporary.open("w") as file:
        file.write("all of it")
    assert happened == (["all of it", "renamed", tmp_path / "new"] if synced else ["renamed"])


def test_a_block_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file") as temporary:
        temporary.write_text("new")
        _ = 1 / 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
