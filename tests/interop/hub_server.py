"""A Hugging Face hub on this machine: as much of its API as fetching a model needs."""

import hashlib
import json
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler

from tests.interop.in_thread import LocalServer, in_thread

SHA = "0123456789abcdef0123456789abcdef01234567"


class HubServer(LocalServer):
    """Serves `files` as the model `name`; `fetched` records the files that were sent."""

    def __init__(self, name: str, files: dict[str, bytes]):
        super().__init__(_Handler)
        self.name, self.files = name, files
        self.fetched: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name, files = self.server.name, self.server.files
        path, headers = self.path.partition("?")[0], {}
        if path == f"/api/models/{name}/revision/main":
            siblings = [{"rfilename": file} for file in files]
            body = json.dumps({"id": name, "sha": SHA, "siblings": siblings}).encode()
        elif path == f"/api/models/{name}/tree/{SHA}":
            body = json.dumps(
                [
                    {"type": "file", "path": file, "size": len(data), "oid": _digest(data)}
                    for file, data in files.items()
                ]
            ).encode()
        elif path.startswith(f"/{name}/resolve/{SHA}/"):
            file = path.removeprefix(f"/{name}/resolve/{SHA}/")
            body = files[file]
            headers = {"ETag": f'"{_digest(body)}"', "X-Repo-Commit": SHA}
            if self.command == "GET":
                self.server.fetched.append(file)
        else:
            headers = {"X-Error-Code": "RepoNotFound"}
            body = b""
        self.send_response(404 if headers.get("X-Error-Code") else 200)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def hub(name: str, files: dict[str, bytes]) -> AbstractContextManager[HubServer]:
    """A server in a thread, for the time of the block."""
    return in_thread(HubServer(name, files))
