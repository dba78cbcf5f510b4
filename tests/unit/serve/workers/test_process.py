"""A worker process seen from the supervisor: its start, its silence, its end. With the real process."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from trtllm_openai.config import Settings
from trtllm_openai.errors import Unanswered
from trtllm_openai.runners.shared_counters import SharedCounters
from trtllm_openai.serve.workers import process
from trtllm_openai.serve.workers.messages import Begin, Message, Question, Report, WantMetrics
from trtllm_openai.serve.workers.process import WorkerProcess


def worker(hear: Callable[[WorkerProcess, Message], None]) -> WorkerProcess:
    listener = socket.create_server(("127.0.0.1", 0))
    counters = SharedCounters.create(1)
    assert counters.fd is not None
    begin = Begin(
        settings=Settings(engine="synthetic", log_level="error").model_dump(mode="json"),
        worker="7",
        row=0,
        workers=1,
        created=0,
        listener=listener.detach(),
        counters=counters.fd,
    )

    async def answer(question: Question) -> Any:
        raise Unanswered

    return WorkerProcess(begin, hear, answer)


class Reports:
    """The reports that were heard: of each, how many intervals had been missed when it was there."""

    def __init__(self) -> None:
        self.missed: list[int] = []

    def hear(self, subject: WorkerProcess, message: Message) -> None:
        if isinstance(message, Report):
            self.missed.append(subject.missed)

    async def wait_for(self, number: int) -> None:
        async with asyncio.timeout(60):
            while len(self.missed) < number:
                await asyncio.sleep(0.02)


def test_one_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HEARTBEAT_TIMEOUT_S", 3600)

    async def test() -> None:
        reports = Reports()
        subject = worker(reports.hear)
        running = asyncio.create_task(subject.run(lambda _: None))
        await reports.wait_for(4)
        assert reports.missed == [0, 0, 0, 0]  # it is not its age that counts
        subject.signal(signal.SIGSTOP)
        with pytest.raises(Unanswered):
            await subject.channel.ask(WantMetrics(), dict, 0.2)
        assert not running.done()
        monkeypatch.setattr(process, "HEARTBEAT_TIMEOUT_S", 2)
        assert await asyncio.wait_for(running, 60) == -signal.SIGKILL

    asyncio.run(test())


def test_it_answers_and_ends_when_told() -> None:
    async def test() -> None:
        reports = Reports()
        subject = worker(reports.hear)
        running = asyncio.create_task(subject.run(lambda _: None))
        await reports.wait_for(1)
        snapshot = await subject.channel.ask(WantMetrics(), dict[str, Any])
        assert "http_requests" in snapshot
        assert not subject.ready  # nobody told it of a model
        subject.signal(signal.SIGTERM)
        assert await asyncio.wait_for(running, 20) == 0
        with pytest.raises(Unanswered):
            await subject.channel.ask(WantMetrics(), dict, 0.2)

    asyncio.run(test())


def test_it_ends_when_the_other_end_is_gone() -> None:
    async def test() -> None:
        reports = Reports()
        subject = worker(reports.hear)
        running = asyncio.create_task(subject.run(lambda _: None))
        await reports.wait_for(1)
        subject._end.shutdown(socket.SHUT_RDWR)
        assert await asyncio.wait_for(running, 20) == 1

    asyncio.run(test())


def test_one_that_was_ready_is_stable_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=lambda: now[0]))
    subject = worker(lambda *_: None)
    seen = []
    for ready, passes in ((False, 3600.0), (True, 59.0), (True, 2.0)):
        subject._heard(Report({}, ready))
        now[0] += passes
        seen.append((subject.was_ready, subject.stable))
    os.close(subject._begin.listener)
    for end in (subject._end, subject._other_end):
        end.close()
    assert seen == [(False, False), (True, False), (True, True)]
