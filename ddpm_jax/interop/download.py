"""Published files, fetched once: resumed when the connection was cut, and checked."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.progress import progress

TIMEOUT_SECONDS = (10, 60)  # to connect, and between two pieces
PIECE_BYTES = 2**16  # a cut loses the piece that was under way


def download(url: str, path: Path, size: int | None = None, sha256: str | None = None) -> None:
    """Fetches `url` to `path`, unless it is there already; `path` appears once it is whole.

    What arrives waits in a file beside it, `path`.part. A later call goes on from there, if
    `sha256` can tell whether the parts belong together. Of several processes one fetches the file,
    and the others wait for it.

    Raises:
      UserError: it cannot be fetched, or is of another size or hash; the message says where to put
        a file that was fetched by other means.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if path.exists():
                if problem := _problem(path, size, sha256):
                    raise UserError(f"{path} is not the file of {url}: {problem}; remove it")
                return
            if sha256 is None:
                part.unlink(missing_ok=True)
            _fetch_all(url, part, path)
            if problem := _problem(part, size, sha256):
                part.unlink()
                raise UserError(
                    f"{url} sent another file than the published one, which was removed: "
                    f"{problem}; try again, or put the right file at {path}"
                )
            os.replace(part, path)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other process is at it."""
    with path.with_name(f".{path.name}.lock").open("w") as file:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_all(url: str, part: Path, path: Path) -> None:
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


def _fetch(url: str, part: Path, name: str) -> None:
    """Adds to `part` what is missing; a server that ignores Range sends everything again."""
    start = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # all of it is there; else the hash will differ
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            start = 0
        total = start + int(response.headers.get("Content-Length", 0))
        bar = progress(round(total / 1e6), round(start / 1e6), "megabyte", f"Fetching {name}")
        with bar, part.open("ab" if start else "wb") as file:
            for piece in response.iter_content(PIECE_BYTES):
                file.write(piece)
                bar.update(len(piece) / 1e6)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _problem(path: Path, size: int | None, sha256: str | None) -> str | None:
    """How the file differs from the published one; None if it does not."""
    if size is not None and (found := path.stat().st_size) != size:
        return f"{found:,} bytes, expected {size:,}"
    if sha256 is not None and (digest := file_sha256(path)) != sha256:
        return f"its sha256 is {digest}, expected {sha256}"
    return None


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
