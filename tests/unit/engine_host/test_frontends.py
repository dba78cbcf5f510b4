"""The runner's socket: much to send, and workers that do not take it."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trtllm_openai.engine_host.frontends import SEND_TIMEOUT_S, Frontends
from trtllm_openai.processes.framing import FramedSocket

MUCH = b"x" * 3_000_000
ENDS: list[FramedSocket] = []
"""The workers' ends of one test."""


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Frontends]:
    owner, owned = os.pipe()
    subject = Frontends(str(tmp_path / "runner.sock"), owner)
    yield subject
    subject.close(0.0)
    while ENDS:
        ENDS.pop().close()
    os.close(owner)
    os.close(owned)


def attach(workers: Frontends, tmp_path: Path) -> tuple[FramedSocket, FramedSocket]:
    """A worker's end, and the runner's."""
    end = FramedSocket.connect(str(tmp_path / "runner.sock"))
    assert end is not None
    ENDS.append(end)
    ((attached, body),) = workers.poll()
    assert body is None
    return end, attached


def test_what_a_worker_reads_does_not_wait_for_the_next_step(workers: Frontends, tmp_path: Path) -> None:
    end, attached = attach(workers, tmp_path)
    found: list[bytes] = []

    def read() -> None:
        while len(found) < 5:
            found.extend(end.receive())

    reading = threading.Thread(target=read)
    reading.start()
    for _ in range(5):
        workers.send(attached, MUCH)
        assert not attached.blocked
    reading.join(10)
    assert found == [MUCH] * 5


def test_a_worker_that_does_not_read_is_waited_for_once(workers: Frontends, tmp_path: Path) -> None:
    end, attached = attach(workers, tmp_path)
    began = time.monotonic()
    for _ in range(100):
        workers.send(attached, MUCH[:100_000])
    assert time.monotonic() - began < 10 * SEND_TIMEOUT_S
    filled = attached.blocked
    assert filled
    found: list[bytes] = []
    while len(found) < 100:
        assert list(workers.poll()) == []
        found += end.receive()
    assert not attached.blocked
    assert found == [MUCH[:100_000]] * 100


def test_a_worker_that_left_without_reading(workers: Frontends, tmp_path: Path) -> None:
    end, attached = attach(workers, tmp_path)
    workers.send(attached, MUCH)
    end.close()
    assert list(workers.poll()) == [(attached, None)]
    assert attached.gone
    assert workers.attached == []
    workers.send(attached, b"to nobody")
    assert not attached.blocked
