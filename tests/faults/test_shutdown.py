"""SIGTERM: nothing new, what runs ends well or is told, and the process ends with status 0."""

import signal
import subprocess
import time
from collections.abc import Callable

import httpx

from tests.faults.conftest import LONG, TEXT, Start, Stream

Say = Callable[[str], None]


def test_sigterm_under_load(start: Start, outcome: Say) -> None:
    with start("--drain-timeout", "4") as victim:
        short = [Stream(victim.url, {**LONG, "max_tokens": 24}) for _ in range(4)]
        long = [Stream(victim.url, {**LONG, "max_tokens": 1000}) for _ in range(4)]
        for stream in (*short, *long):
            stream.wait_for_text(1)
        process = victim.server.process
        process.send_signal(signal.SIGTERM)
        victim.server.wait(lambda: httpx.get(f"{victim.url}/health/ready").status_code == 503, 2)
        assert "draining" in httpx.get(f"{victim.url}/health/ready").json()["error"]["message"]
        assert httpx.get(f"{victim.url}/health/live").status_code == 200
        refused = httpx.post(victim.url + TEXT, json={"prompt": "x"})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        for stream in short:
            stream.join()
            assert stream.done
        for stream in long:
            stream.join()
            assert not stream.done
            assert stream.error is not None
            assert stream.error["code"] == "service_unavailable"
            assert stream.chunks[-2]["choices"][0]["finish_reason"] == "abort"
        assert process.wait(30) == 0
        outcome("4 short streams whole; 4 long ones got a final chunk and an error event; status 0")


def test_a_second_sigterm_ends_now(start: Start, outcome: Say) -> None:
    with start("--drain-timeout", "60") as victim:
        stream = Stream(victim.url, {**LONG, "max_tokens": 1000})
        stream.wait_for_text()
        process = victim.server.process
        process.send_signal(signal.SIGTERM)
        victim.server.wait(lambda: httpx.get(f"{victim.url}/health/ready").status_code == 503, 2)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        stream.join()
        assert stream.error is not None
        outcome(f"ended {time.monotonic() - began:.1f} s later; the stream got an error event")


def test_sigterm_while_loading(start: Start, outcome: Say) -> None:
    from tests.faults.conftest import launched

    flags = ("--engine", "synthetic", "--synthetic.load-time", "60")
    with launched(*flags, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert any(line.startswith("loading") for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    outcome("status 0")
