"""Hosts that wait for a launch: what they do meanwhile, who gets them, and how they end."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.runners.test_launcher import environment
from tests.unit.runners.test_pool import drain, pool, request, run, spec, until
from trtllm_openai.engine_host.prestart import ENGINES, PrestartedHosts, import_engine
from trtllm_openai.runners.launcher import SubprocessLauncher


@asynccontextmanager
async def waiting(engine: str, *gpus: str | None) -> AsyncIterator[PrestartedHosts]:
    hosts = PrestartedHosts()
    await hosts.start(engine, gpus)
    try:
        yield hosts
    finally:
        await hosts.close()


def pids(hosts: PrestartedHosts) -> list[int]:
    return [process.pid for _, process in hosts._waiting]


def test_a_host_imports_torch_before_it_is_told_anything() -> None:
    async def test() -> None:
        async with waiting("torch", None) as hosts:
            (pid,) = pids(hosts)
            await until(lambda: "libtorch" in Path(f"/proc/{pid}/maps").read_text(), 60)

    run(test())


def test_a_launch_takes_a_host_with_its_gpus_that_lives() -> None:
    async def test() -> None:
        async with waiting("synthetic", "3", "4", "4") as hosts:
            three, dead, four = pids(hosts)
            assert hosts.take(None) is None
            os.kill(dead, signal.SIGKILL)
            await until(lambda: hosts._waiting[1][1].returncode is not None)
            launch = msgspec.structs.replace(spec(), gpus="4")
            async with pool(2, launch=launch, launcher=SubprocessLauncher(hosts)) as (subject, _):
                first, second = (runner.pid for runner in subject.runners)
                assert first == four
                assert second not in (three, dead, four)
                assert await drain(subject.submit([request(subject, 3)]))
                assert all(b"CUDA_VISIBLE_DEVICES=4" in environment(pid) for pid in (first, second))
            assert three in pids(hosts)
        with pytest.raises(ProcessLookupError):
            os.kill(three, 0)

    run(test())


def test_a_host_that_dies_after_it_was_taken_is_a_runner_that_failed() -> None:
    async def test() -> None:
        async with waiting("synthetic", None) as hosts:
            take = hosts.take

            def killed(gpus: str | None) -> Any:
                process = take(gpus)
                if process is not None:
                    process.kill()
                return process

            hosts.take = killed  # type: ignore[method-assign]
            async with pool(launcher=SubprocessLauncher(hosts)) as (subject, history):
                assert subject.restarts == 1
                assert any("killed by signal 9" in status.reason for status in history)

    run(test())


def test_without_a_process_to_be_had_the_launch_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def exhausted(*_: Any, **__: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", exhausted)

    async def test() -> None:
        async with waiting("synthetic", None) as hosts:
            assert hosts.take(None) is None
            with pytest.raises(BlockingIOError):
                await SubprocessLauncher(hosts).start(spec())

    run(test())


@pytest.mark.parametrize("engine", ["tensorrt_llm", "tensorrt_llm_pytorch"])
def test_engines_that_need_the_specification_to_be_imported_are_not_started(engine: str) -> None:
    async def test() -> None:
        async with waiting(engine, None) as hosts:
            assert pids(hosts) == []

    run(test())


def test_a_host_whose_owner_is_gone_says_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trtllm_openai.engine_host", "synthetic"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_import_that_fails_is_left_to_the_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "torch", "no_such_module")
    import_engine("torch")
    assert gc.isenabled()
    gc.unfreeze()
