"""The supervisor with real workers and runners: what it does when they do not start."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from trtllm_openai.config import Settings
from trtllm_openai.processes import keep_running
from trtllm_openai.serve.workers.supervisor import Supervisor


@asynccontextmanager
async def supervised(model: Path, workers: int = 1) -> AsyncIterator[tuple[Supervisor, Callable[[], Any]]]:
    """A supervisor that runs, and a wait until it is ready or over."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        settings = Settings(engine="synthetic", model=str(model), log_level="error", drain_timeout=5.0)
        ready = asyncio.Event()
        subject = Supervisor(settings, workers, listener, lambda *_: None, lambda _: ready.set())
        running = asyncio.create_task(subject.run())

        async def ready_or_over() -> bool:
            waiting = asyncio.create_task(ready.wait())
            await asyncio.wait({waiting, running}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            return ready.is_set()

        try:
            yield subject, ready_or_over
            if not running.done():
                os.kill(os.getpid(), signal.SIGTERM)
        finally:
            await asyncio.wait_for(running, 30)


def run(test: Any) -> None:
    asyncio.run(test())


def test_a_start_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch, demo_dir: Path) -> None:
    start = asyncio.create_subprocess_exec
    failed = []

    async def exhausted_at_first(*command: Any, **options: Any) -> Any:
        module = command[command.index("-m") + 1]
        if module not in failed:
            failed.append(module)
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return await start(*command, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", exhausted_at_first)

    async def test() -> None:
        async with supervised(demo_dir) as (subject, ready_or_over):
            assert await ready_or_over()
            assert sorted(failed) == ["trtllm_openai.engine_host", "trtllm_openai.serve.workers"]
        assert subject.failure == ""

    run(test)


def test_workers_that_end_at_once_end_the_server(monkeypatch: pytest.MonkeyPatch, demo_dir: Path) -> None:
    start = asyncio.create_subprocess_exec
    starts = []

    async def broken(*command: Any, **options: Any) -> Any:
        if "trtllm_openai.serve.workers" in command:
            starts.append(command)
            command = (command[0], "-c", "raise SystemExit(7)")
        return await start(*command, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", broken)

    async def test() -> None:
        async with supervised(demo_dir) as (subject, ready_or_over):
            assert not await ready_or_over()
            assert subject.failure == "HTTP worker 5 ended with status 7"
            assert len(starts) == keep_running.MAX_FAILURES

    run(test)
