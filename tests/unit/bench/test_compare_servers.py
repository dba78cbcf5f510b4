"""A server of `benchmarks/compare.py` ends with all of its processes, whatever they do against it."""

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks import compare_servers
from benchmarks.compare_servers import Failure, Kind, Side, living, started

STUBBORN = """
import http.server, json, os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps([os.getpid(), child.pid]).encode())

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


@pytest.fixture
def stubborn(tmp_path: Path) -> Side:
    """A server that does not heed SIGTERM, with a process in a session of its own."""
    script = tmp_path / "server.py"
    script.write_text(STUBBORN)
    kind = Kind(module="", start=f"{script} {{port}}", dummy="", health="/")
    return Side("stubborn", kind, sys.executable, tmp_path, dict(os.environ), [])


def test_none_of_its_processes_stays(stubborn: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_servers, "STOP_WITHIN", 0.3)
    memory = iter([100, 9000, 9000, 101])
    monkeypatch.setattr(compare_servers, "gpu_memory", lambda: next(memory))
    with started(stubborn, "", dummy=False, log=tmp_path / "log") as server:
        pids = set(json.loads(compare_servers.get(server.url) or b""))
        assert pids <= {pid for pid, _ in living()}
    assert not pids & {pid for pid, _ in living()}
    assert next(memory, None) is None  # it was waited for


def test_gpu_memory_that_is_not_given_back_is_told(
    stubborn: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_servers, "STOP_WITHIN", 0.0)
    monkeypatch.setattr(compare_servers, "MEMORY_WITHIN", 0.0)
    memory = iter([100, 9000])
    monkeypatch.setattr(compare_servers, "gpu_memory", lambda: next(memory))
    with (
        pytest.raises(Failure, match="9000 MiB of GPU memory are in use; it was 100 before"),
        started(stubborn, "", dummy=False, log=tmp_path / "log"),
    ):
        pass


def test_a_server_that_ends_under_load_is_told(
    stubborn: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_servers, "STOP_WITHIN", 0.3)
    whole = started(stubborn, "", dummy=False, log=tmp_path / "log")
    server = whole.__enter__()
    pids = set(json.loads(compare_servers.get(server.url) or b""))
    server.process.kill()
    server.process.wait()
    with pytest.raises(Failure, match="stubborn ended while it was measured"):
        whole.__exit__(None, None, None)
    assert not pids & {pid for pid, _ in living()}
