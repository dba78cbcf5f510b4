"""A Hugging Face hub with one repository, as far as huggingface_hub asks it for a snapshot."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REPOSITORY = "org/name"
COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """`cut_after`: bytes of a .safetensors file after which its connection breaks, once. `gated`: 403."""

    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
        self.cut_after: int | None = None
        self.gated = False
        self.asked: list[tuple[str, str, str | None, str | None]] = []
        """Method, path, Range and Authorization of each request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server
        path = self.path.partition("?")[0]
        hub.asked.append((self.command, path, self.headers.get("range"), self.headers.get("authorization")))
        parts = path.strip("/").split("/")
        if hub.gated and "resolve" in parts:
            self._send(403, b"", {"x-error-code": "GatedRepo"})
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            self._api(parts[4:])
        elif path.startswith(f"/{REPOSITORY}/resolve/") and parts[3] in ("main", COMMIT):
            self._file(parts[-1])
        else:
            self._send(404, b"", {"x-error-code": "RepoNotFound"})

    def _api(self, rest: list[str]) -> None:
        if rest and rest[0] == "revision" and rest[1] not in ("main", COMMIT):
            self._send(404, b"", {"x-error-code": "RevisionNotFound"})
            return
        sizes = {name: len(content) for name, content in self.server.files.items()}
        if rest and rest[0] == "tree":
            listed: Any = [
                {"type": "file", "path": name, "size": size, "oid": _etag(self.server.files[name])[:40]}
                for name, size in sizes.items()
            ]
        else:
            siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            listed = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
        self._send(200, json.dumps(listed).encode(), {"content-type": "application/json"})

    def _file(self, name: str) -> None:
        content = self.server.files.get(name)
        if content is None:
            self._send(404, b"", {"x-error-code": "EntryNotFound"})
            return
        headers = {"etag": f'"{_etag(content)}"', "x-repo-commit": COMMIT, "accept-ranges": "bytes"}
        begin = 0
        if given := self.headers.get("range"):
            begin = int(given.removeprefix("bytes=").partition("-")[0])
            headers["content-range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        cut = self.server.cut_after
        if self.command == "GET" and name.endswith(".safetensors") and cut is not None:
            self.server.cut_after = None
            self._head(200, len(content), headers)
            self.wfile.write(content[:cut])
            self.wfile.flush()
            self.close_connection = True
            return
        self._send(206 if begin else 200, content[begin:], headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(length))
        self.end_headers()


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def hub(directory: Path) -> Iterator[Hub]:
    """A hub whose repository has the files of `directory`."""
    with Hub(directory) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
