"""Published files, fetched once: resumed when the connection was cut, and checked."""

import base64
import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import requests

from ddpm_jax.errors import RunError, UserError
from ddpm_jax.runtime.progress import progress

TIMEOUT_SECONDS = (10, 60)  # to connect, and between two pieces
PIECE_BYTES = 2**16  # a cut loses the piece that was under way
FULL = (errno.ENOSPC, errno.EDQUOT)


class Said(NamedTuple):
    """What a server says of a whole file; None where it says nothing."""

    size: int | None
    md5: str | None  # in base64, as it comes


def download(url: str, path: Path, size: int | None = None, sha256: str | None = None) -> bool:
    """Fetches `url` to `path`; returns False if it is there already.

    `path` appears once it is whole, of the size and MD5 that the server says, if it does, and of
    those that are given. What arrives waits in a file beside it, `path`.part. A later call goes on
    from there, if `sha256`, or the server by its ETag (kept in `path`.part.etag and sent as
    If-Range), can tell whether the parts belong together. Of several processes one fetches the
    file, and the others wait for it.

    Raises:
      UserError: it cannot be fetched, or is of another size or hash; the message says where to put
        a file that was fetched by other means.
      RunError: the disk is full. What came stays.
    """
    part = path.with_name(f"{path.name}.part")
    with in_cache(path), alone(path):
        if path.exists():
            if problem := _problem(path, size, sha256):
                raise UserError(f"{path} is not the file of {url}: {problem}; remove it")
            return False
        if sha256 is None and not _etag_file(part).exists():
            part.unlink(missing_ok=True)
        said = _fetch_all(url, part, path)
        if problem := _problem(part, size, sha256) or _difference(part, said):
            _forget(part)
            raise UserError(
                f"{url} sent another file than the published one, which was removed: "
                f"{problem}; try again, or put the right file at {path}"
            )
        os.replace(part, path)
        _etag_file(part).unlink(missing_ok=True)
        return True


@contextmanager
def in_cache(path: Path) -> Iterator[None]:
    """Makes the folder that `path` lies in, and names the place in errors of the file system.

    Raises UserError where nothing can be written, and RunError if the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise RunError(
            f"{path.parent} cannot be written: {error.strerror}; make room, or name another folder "
            "as DDPM_JAX_CACHE; the same command then goes on, and what was fetched is kept"
        ) from error


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other process is at `path`, by a lock in a file beside it."""
    with path.with_name(f".{path.name}.lock").open("w") as file:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_all(url: str, part: Path, path: Path) -> Said:
    """Fetches until `part` is whole, or until a connection brings nothing more."""
    while True:
        before = _size(part)
        try:
            return _fetch(url, part, path.name)
        except requests.RequestException as error:
            if _size(part) <= before:
                raise UserError(
                    f"{url} cannot be fetched: {_reason(error)}; try again, or fetch it by other "
                    f"means and put it at {path}"
                ) from error


def _fetch(url: str, part: Path, name: str) -> Said:
    """Adds to `part` what is missing; a server that ignores Range sends everything again."""
    start, etag = _size(part), _read_etag(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    if start and etag:
        headers["If-Range"] = etag  # another version then comes from its start
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        said = _said(response)
        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
            return said  # all of it is there; else its size or hash will differ
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            start = 0
        elif etag and response.headers.get("ETag", etag) != etag:  # it does not know If-Range
            _forget(part)
            return _fetch(url, part, name)
        total = start + int(response.headers.get("Content-Length", 0))
        bar = progress(round(total / 1e6), round(start / 1e6), "megabyte", f"Fetching {name}")
        with bar, part.open("ab" if start else "wb") as file:
            _keep_etag(part, response.headers.get("ETag", ""))
            for piece in response.iter_content(PIECE_BYTES):
                file.write(piece)
                bar.update(len(piece) / 1e6)
        return said


def _said(response: requests.Response) -> Said:
    """The size and the MD5 of the whole file. Azure gives the MD5 with a part of it too."""
    headers, whole = response.headers, response.status_code == requests.codes.ok
    length = headers.get("Content-Length") if whole else None
    if found := re.search(r"/(\d+)$", headers.get("Content-Range", "")):
        length = found[1]
    md5 = headers.get("x-ms-blob-content-md5") or (headers.get("Content-MD5") if whole else None)
    return Said(None if length is None else int(length), md5)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _etag_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _read_etag(part: Path) -> str | None:
    return _etag_file(part).read_text() if _etag_file(part).exists() else None


def _keep_etag(part: Path, etag: str) -> None:
    """Keeps a tag that names these very bytes; a weak one, W/..., does not."""
    if etag.startswith('"'):
        _etag_file(part).write_text(etag)
    else:
        _etag_file(part).unlink(missing_ok=True)


def _forget(part: Path) -> None:
    part.unlink()
    _etag_file(part).unlink(missing_ok=True)


def _problem(path: Path, size: int | None, sha256: str | None) -> str | None:
    """How the file differs from the published one; None if it does not."""
    if size is not None and (found := path.stat().st_size) != size:
        return f"{found:,} bytes, expected {size:,}"
    if sha256 is not None and (digest := file_sha256(path)) != sha256:
        return f"its sha256 is {digest}, expected {sha256}"
    return None


def _difference(path: Path, said: Said) -> str | None:
    """How the file differs from what the server says of it; None if it does not."""
    if said.size is not None and (found := path.stat().st_size) != said.size:
        return f"{found:,} bytes, of the {said.size:,} that the server names"
    if said.md5 is None:
        return None
    digest = _file_digest(path, lambda: hashlib.md5(usedforsecurity=False)).digest()
    found_md5 = base64.b64encode(digest).decode()
    return None if found_md5 == said.md5 else f"its MD5 is {found_md5}, the server's {said.md5}"


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    return _file_digest(path, hashlib.sha256).hexdigest()


def _file_digest(path: Path, algorithm: Callable[[], Any]) -> Any:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm)


def _reason(error: requests.RequestException) -> str:
    """A few words, for the exceptions' own are nested and long."""
    if error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    kinds = {
        requests.Timeout: "the server does not answer",
        requests.exceptions.ChunkedEncodingError: "the connection was cut",
        requests.exceptions.SSLError: "the connection is not secure",
        requests.exceptions.ProxyError: "the proxy refuses",
        requests.ConnectionError: "there is no connection",
    }
    words = " ".join(str(error).split())[:150]
    return next((known for kind, known in kinds.items() if isinstance(error, kind)), words)
