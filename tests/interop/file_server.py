"""A web server on this machine that can misbehave: cut connections, ignore Range, refuse."""

import re
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler

from tests.interop.in_thread import LocalServer, in_thread


class FileServer(LocalServer):
    """Serves `body` under every path but those of `bodies`, or 404 if it is None.

    `ranges` records the Range header of each request, `conditions` If-Range, `paths` the path.
    """

    def __init__(self, body: bytes | None):
        super().__init__(_Handler)
        self.body = body
        self.bodies: dict[str, bytes] = {}  # by the last part of the path
        self.headers: dict[str, str] = {}  # that each answer has, as ETag
        self.cuts: list[int] = []  # bytes after which each of the next answers breaks off
        self.status = 200
        self.knows_ranges = self.knows_if_range = True
        self.ranges: list[str | None] = []
        self.conditions: list[str | None] = []
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"{self.address}/file.bin"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        server, asked, condition = self.server, self.headers["Range"], self.headers["If-Range"]
        server.ranges.append(asked)
        server.conditions.append(condition)
        server.paths.append(self.path)
        body, status = server.bodies.get(self.path.rpartition("/")[2], server.body), server.status
        if body is None:
            body, status = b"", 404
        more = dict(server.headers)
        same = condition in (None, server.headers.get("ETag")) or not server.knows_if_range
        if asked and server.knows_ranges and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            size = len(body)
            body, status = body[start:], 206 if start < size else 416
            more["Content-Range"] = (
                f"bytes {start}-{size - 1}/{size}" if body else f"bytes */{size}"
            )
        self.send_response(status)
        for name, value in (more | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def log_message(self, *_: object) -> None:
        pass


def serving(body: bytes | None) -> AbstractContextManager[FileServer]:
    """A server in a thread, for the time of the block."""
    return in_thread(FileServer(body))
