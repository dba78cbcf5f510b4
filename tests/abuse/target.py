"""The server under abuse, what it is sent, and what is measured of it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.abuse.probe import Seen
from tests.conftest import python_path
from tests.e2e.conftest import ROOT, RunningServer, children, serve
from trtllm_openai.api.auth import make_key

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
SHORT: dict[str, Any] = {"prompt": "Hi", "max_tokens": 3}
KEYS = {"polite": "", "other": "", "mallory": "", "single": "concurrent=1"}
"""Names of keys, and their limits. `polite` streams all the while, `mallory` attacks."""
RECEIVING_MIB = 64
ORIGIN = "https://page.example"
"""Of a page that may call the server."""
FLAGS = [
    *("--workers", "1", "--max-receiving-bytes", str(RECEIVING_MIB * 2**20), "--read-timeout", "2"),
    *("--limits.client-read-timeout", "1", "--log-level", "info", "--cors-origins", f'["{ORIGIN}"]'),
    *("--torch.max-seq-len", "2048", "--torch.kv-cache-tokens", "16384", "--torch.max-batch-size", "8"),
    *("--torch.threads", "1", "--torch.guide-compile-timeout", "0.5"),
]


class Target:
    """A started server, with keys."""

    def __init__(self, server: RunningServer, keys: dict[str, str], connections: Path) -> None:
        """`connections`: where its processes note what they connect to."""
        self.connections = connections
        self.server = server
        self.url = httpx.URL(server.url)
        self.keys = keys
        self.sent = 0
        """Bytes of bodies and of raw requests."""
        self._http = httpx.Client(
            timeout=120, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0)
        )

    def processes(self) -> dict[str, int]:
        """Process ids by name."""
        http = self.server.process.pid
        runners = self.server.processes("trtllm_openai.engine_host")
        inside = [child for runner in runners for child in children(runner)]
        names = ["HTTP", *(f"runner {i}" for i in range(len(runners)))]
        names += [f"beside runner {i}" for i in range(len(inside))]
        return dict(zip(names, [http, *runners, *inside], strict=True))

    def post(self, path: str, body: Any, key: str = "mallory", **headers: str) -> httpx.Response:
        """POST a body, as JSON unless it is bytes, from a new connection."""
        content = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        headers = {"content-type": "application/json", **headers, "authorization": f"Bearer {self.keys[key]}"}
        self.sent += len(content)
        return self._http.post(self.server.url + path, content=content, headers=headers)

    def ask(self, path: str, body: Any, **headers: str) -> str:
        """`said` of a POST."""
        response = self.post(path, body, **headers)
        return said(response.status_code, response.content)

    def ask_all(self, path: str, bodies: Sequence[Any]) -> list[str]:
        """`ask` for all of them at once."""
        with ThreadPoolExecutor(len(bodies)) as threads:
            return list(threads.map(lambda body: self.ask(path, body), bodies))

    def close(self) -> None:
        self._http.close()

    @contextmanager
    def connect(self, *, receive_buffer: int | None = None) -> Iterator[socket.socket]:
        """A connection, closed at the end of the block."""
        with socket.socket() as client:
            if receive_buffer is not None:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            client.settimeout(60)
            client.connect((self.url.host, self.url.port or 80))
            yield client

    def head(self, path: str, framing: str, key: str = "mallory") -> bytes:
        """The head of a POST. `framing`: the header line that bounds its body."""
        authorization = f"authorization: Bearer {self.keys[key]}"
        lines = [f"POST {path} HTTP/1.1", "host: x", authorization, "content-type: application/json"]
        return "\r\n".join([*lines, framing, "", ""]).encode()

    def raw(self, *parts: bytes) -> list[str]:
        """`said` of each response to these bytes, until the server closes."""
        with self.connect() as client:
            with suppress(ConnectionError):
                for part in parts:
                    client.sendall(part)
                    self.sent += len(part)
            return answers(client)


def said(status: int, body: bytes) -> str:
    """A response in short: its status, and of an error the parameter or else the code."""
    with suppress(ValueError):
        error = json.loads(body).get("error")
        if error:
            return f"{status} {error['param'] or error['code']}"
    return str(status)


def answers(client: socket.socket) -> list[str]:
    """`said` of each response that comes until the server closes."""
    data = b""
    with suppress(ConnectionError):
        while piece := client.recv(65536):
            data += piece
    found = re.split(rb"HTTP/1\.1 (\d{3}) .*\r\n", data)[1:]
    pairs = zip(found[::2], found[1::2], strict=True)
    return [said(int(status), rest.partition(b"\r\n\r\n")[2]) for status, rest in pairs]


class Watcher:
    """The process of `tests.abuse.probe`."""

    def __init__(self, target: Target) -> None:
        command = [sys.executable, "-m", "tests.abuse.probe", str(target.url.port), target.keys["polite"]]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def take(self) -> Seen:
        """Measurements since the last call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Seen)

    def close(self) -> None:
        self._process.communicate(timeout=20)


def memory(pid: int, field: str) -> int:
    """`VmRSS` or `VmHWM` (its maximum since `forget_peaks`) of a process, in bytes; 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def forget_peaks(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


@contextmanager
def start(model: Path, directory: Path) -> Iterator[Target]:
    """Serve `model`. `directory`: for the file of keys."""
    made = {name: make_key(name, "api,admin") for name in KEYS}
    file = directory / "keys"
    file.write_text("".join(f"{line} {KEYS[name]}\n" for name, (_, line) in made.items()))
    connections = directory / "connections"
    env = {"CONNECTIONS_FILE": str(connections), "PYTHONPATH": python_path(Path(__file__).parent / "hooks")}
    with serve("--model", str(model), "--api-keys-file", str(file), *FLAGS, env=env) as server:
        server.key = made["other"][0]
        target = Target(server, {name: key for name, (key, _) in made.items()}, connections)
        yield target
        target.close()
