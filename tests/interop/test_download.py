"""Downloads from a real server on this machine: whole, cut, resumed, wrong, refused."""

import base64
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ddpm_jax.errors import RunError, UserError
from ddpm_jax.interop.download import download
from tests.interop.file_server import FileServer, serving

BODY = bytes(range(251)) * 40_000
SHA256 = hashlib.sha256(BODY).hexdigest()
CUT = 3 * 2**20  # between two pieces


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "*")
    with serving(BODY) as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "file.bin"


def part_of(path: Path) -> Path:
    return path.with_name("file.bin.part")


def refusal(url: str, path: Path, size: int | None = len(BODY), sha256: str | None = SHA256) -> str:
    with pytest.raises(UserError) as caught:
        download(url, path, size, sha256)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_fetched_once(server, path):
    download(server.url, path, len(BODY), SHA256)
    assert path.read_bytes() == BODY and not part_of(path).exists()
    download(server.url, path, len(BODY), SHA256)
    assert server.ranges == [None]


def test_a_cut_connection_is_taken_up_where_it_broke_off(server, path):
    server.cuts = [CUT, CUT]
    download(server.url, path, len(BODY), SHA256)
    assert path.read_bytes() == BODY
    assert server.ranges == [None, f"bytes={CUT}-", f"bytes={2 * CUT}-"]


def test_a_later_call_goes_on_from_what_an_earlier_one_got(server, path):
    server.cuts = [CUT, 0]
    message = refusal(server.url, path)
    assert "cut" in message and server.url in message and str(path) in message
    assert not path.exists() and part_of(path).read_bytes() == BODY[:CUT]

    download(server.url, path, len(BODY), SHA256)
    assert path.read_bytes() == BODY and server.ranges[-1] == f"bytes={CUT}-"


def test_a_server_that_ignores_range_sends_everything_again(server, path):
    server.knows_ranges, server.cuts = False, [CUT]
    download(server.url, path, len(BODY), SHA256)
    assert path.read_bytes() == BODY and server.ranges == [None, f"bytes={CUT}-"]


def test_a_server_that_always_cuts_is_given_up(server, path):
    server.knows_ranges, server.cuts = False, [CUT] * 9
    assert "cut" in refusal(server.url, path)
    assert len(server.ranges) == 2


def test_a_part_that_is_whole_becomes_the_file(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(BODY)
    download(server.url, path, len(BODY), SHA256)
    assert path.read_bytes() == BODY and server.ranges == [f"bytes={len(BODY)}-"]


def test_without_a_hash_an_earlier_part_is_not_trusted(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(b"of an older version")
    download(server.url, path)
    assert path.read_bytes() == BODY and server.ranges == [None]


def test_with_an_etag_a_later_call_goes_on_without_a_hash(server, path):
    server.headers, server.cuts = {"ETag": '"first"'}, [CUT, 0]
    refusal(server.url, path, None, None)
    assert part_of(path).stat().st_size == CUT
    assert download(server.url, path) is True
    assert path.read_bytes() == BODY
    assert server.ranges[-1] == f"bytes={CUT}-" and server.conditions[-1] == '"first"'
    assert {each.name for each in path.parent.iterdir()} == {"file.bin", ".file.bin.lock"}
    assert download(server.url, path) is False


@pytest.mark.parametrize("knows_if_range", [True, False])
def test_another_version_is_fetched_from_its_start(knows_if_range, server, path):
    server.headers, server.cuts = {"ETag": '"first"'}, [CUT, 0]
    refusal(server.url, path, None, None)
    server.body, server.headers = BODY[::-1], {"ETag": '"second"'}
    server.knows_if_range = knows_if_range
    download(server.url, path)
    assert path.read_bytes() == BODY[::-1]


def test_a_weak_etag_is_no_reason_to_trust_a_part(server, path):
    server.headers, server.cuts = {"ETag": 'W/"first"'}, [CUT, 0]
    refusal(server.url, path, None, None)
    download(server.url, path)
    assert path.read_bytes() == BODY and server.ranges[-1] is None


@pytest.mark.parametrize("name", ["Content-MD5", "x-ms-blob-content-md5"])
def test_an_md5_that_the_server_gives_must_be_that_of_the_file(name, server, path):
    right = base64.b64encode(hashlib.md5(BODY).digest()).decode()
    server.headers = {"ETag": '"first"', name: right}
    download(server.url, path)
    path.unlink()
    server.body = BODY[::-1]
    message = refusal(server.url, path, None, None)
    assert f"the server's {right}" in message and "removed" in message
    assert {each.name for each in path.parent.iterdir()} == {".file.bin.lock"}


def test_the_md5_of_a_part_is_not_taken_for_that_of_the_file(server, path):
    server.headers, server.cuts = {"ETag": '"first"'}, [CUT, 0]
    refusal(server.url, path, None, None)
    server.headers = {"ETag": '"first"', "Content-MD5": "of the part"}
    download(server.url, path)
    assert path.read_bytes() == BODY


def test_a_full_disk_is_told_and_a_later_call_goes_on(server, path):
    path.parent.mkdir()
    part_of(path).symlink_to("/dev/full")
    with pytest.raises(
        RunError, match="No space left on device; make room, or name another folder"
    ):
        download(server.url, path, len(BODY), SHA256)
    part_of(path).unlink()
    download(server.url, path, len(BODY), SHA256)
    assert path.read_bytes() == BODY


def test_a_wrong_hash_removes_what_came(server, path):
    wrong = hashlib.sha256(b"").hexdigest()
    message = refusal(server.url, path, sha256=wrong)
    assert SHA256 in message and wrong in message and "removed" in message
    assert not path.exists() and not part_of(path).exists()


def test_a_wrong_size_removes_what_came(server, path):
    assert "10,040,000 bytes, expected 7" in refusal(server.url, path, size=7)
    assert not path.exists() and not part_of(path).exists()


def test_another_file_in_the_place_is_left_alone(server, path):
    path.parent.mkdir()
    path.write_bytes(b"mine")
    message = refusal(server.url, path)
    assert str(path) in message and "remove it" in message
    assert path.read_bytes() == b"mine" and not server.ranges


def test_an_answer_of_the_server_is_told(server, path):
    server.status = 404
    message = refusal(server.url, path)
    assert "404 Not Found" in message and server.url in message and str(path) in message
    assert not path.exists()


def test_without_a_connection_the_message_says_where_to_put_the_file(path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with serving(b"") as server:
        url = server.url
    message = refusal(url, path)  # nobody listens there any more
    assert "no connection" in message and url in message and f"put it at {path}" in message


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert str(tmp_path / "file") in refusal(server.url, tmp_path / "file" / "file.bin")


def test_of_two_at_once_one_fetches(server, path):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: download(server.url, path, len(BODY), SHA256), range(2)))
    assert path.read_bytes() == BODY and server.ranges == [None]
