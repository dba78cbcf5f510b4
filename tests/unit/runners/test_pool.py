"""The pool with real runner processes around the synthetic engine."""

import asyncio
import os
import signal
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trtllm_openai.config import Settings
from trtllm_openai.engine_host.loader import ModelFiles
from trtllm_openai.engine_host.messages import LaunchSpec
from trtllm_openai.errors import PoolError
from trtllm_openai.generation import GenerationRequest, SamplingParams, StepOutput
from trtllm_openai.runners import Generation, PoolStatus, RunnerPool
from trtllm_openai.runners import pool as pool_module
from trtllm_openai.runners.dispatch import SequencePool
from trtllm_openai.runners.launcher import Launcher, SubprocessHandle
from trtllm_openai.runners.scaling import Scaler


def spec(engine: str = "synthetic", **synthetic: float) -> LaunchSpec:
    settings = Settings(engine=engine, log_level="error", synthetic={"ttft": 0.0, "itl": 0.005, **synthetic})
    return LaunchSpec("", 0, settings.model_dump(mode="json"), ModelFiles("/nonexistent", "", 100, (2,)))


@asynccontextmanager
async def pool(
    replicas: int = 1,
    launch: LaunchSpec | None = None,
    wait: bool = True,
    launcher: Launcher | None = None,
    scaler: Scaler | None = None,
) -> AsyncIterator[tuple[RunnerPool, list[PoolStatus]]]:
    history: list[PoolStatus] = []
    subject = RunnerPool(
        [launch or spec()] * replicas,
        load_timeout=30.0,
        stall_timeout=30.0,
        retry_interval=60.0,
        on_change=lambda: history.append(subject.status()),
        launcher=launcher,
        scaler=scaler,
    )
    subject.start()
    try:
        if wait:
            await until(lambda: subject.status().ready == subject.wanted)
        yield subject, history
    finally:
        await subject.stop()


async def until(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def request(subject: SequencePool, max_tokens: int = 5) -> GenerationRequest:
    return GenerationRequest(subject.new_request_id(), [1, 2, 3], SamplingParams(max_tokens))


async def arrival(generation: Generation) -> list[StepOutput]:
    """The next deltas of a generation; none when all of its sequences ended."""
    if not generation.waiting and generation.live:
        arrived = asyncio.Event()
        generation.listener = arrived.set
        await arrived.wait()
    return generation.take()


async def drain(generation: Generation) -> list[StepOutput]:
    outputs = []
    while more := await arrival(generation):
        outputs += more
    return outputs


def run(test: Awaitable[None]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await test

    asyncio.run(main())


def test_streams_every_token_then_ends() -> None:
    async def test() -> None:
        async with pool() as (subject, _):
            requests = [request(subject, 7), request(subject, 3)]
            outputs = await drain(subject.submit(requests))
            for one in requests:
                mine = [output for output in outputs if output.request_id == one.request_id]
                assert sum(len(output.token_ids) for output in mine) == one.sampling.max_tokens
                assert mine[-1].finish_reason == "length"
            assert subject.live == 0
            await until(lambda: subject.stats.generated_tokens == 10)

    run(test())


def test_close_ends_the_sequence_in_the_engine() -> None:
    async def test() -> None:
        async with pool(launch=spec(itl=0.01)) as (subject, _):
            generation = subject.submit([request(subject, 5000)])
            await arrival(generation)
            await until(lambda: subject.stats.running == 1)
            generation.close()
            generation.close()
            assert subject.live == 0
            generation.take()
            await until(lambda: subject.stats.running == 0)
            generated = subject.stats.generated_tokens
            other = await drain(subject.submit([request(subject, 3)]))
            await until(lambda: subject.stats.generated_tokens == generated + len(other))
            assert generated < 5000  # it ended before its time
            assert generation.take() == []  # deltas after close() are dropped

    run(test())


def test_least_loaded_runner_is_chosen() -> None:
    async def test() -> None:
        async with pool(replicas=2) as (subject, _):
            generations = [subject.submit([request(subject, 4000)]) for _ in range(6)]
            assert [runner.load for runner in subject.runners] == [3, 3]
            for generation in generations:
                generation.close()

    run(test())


def test_killed_runner_fails_its_requests_and_comes_back() -> None:
    async def test() -> None:
        async with pool() as (subject, _):
            generation = subject.submit([request(subject, 4000)])
            await arrival(generation)
            pid = subject.runners[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            outputs = await drain(generation)
            assert outputs[-1].finish_reason == "error"
            assert "runner failed" in (outputs[-1].error or "")
            with pytest.raises(PoolError) as caught:
                subject.submit([request(subject)])
            assert caught.value.loading
            await until(lambda: subject.status().ready == 1)
            assert subject.restarts == 1
            assert len(await drain(subject.submit([request(subject, 3)]))) == 3

    run(test())


def test_restart_drains_the_runner() -> None:
    async def test() -> None:
        async with pool(2) as (subject, _):
            before = [state.pid for state in subject.states()]
            generation = subject.submit([request(subject, 60)])
            (busy,) = [state.index for state in subject.states() if state.sequences]
            await subject.restart(busy, 10.0)
            await asyncio.sleep(0.05)
            assert subject.states()[busy].state == "draining"
            others = [subject.submit([request(subject)]) for _ in range(4)]
            assert subject.states()[1 - busy].sequences == 4
            outputs = await drain(generation)
            assert outputs[-1].finish_reason == "length"
            for other in others:
                await drain(other)
            await until(lambda: subject.restarts == 1 and subject.status().ready == 2)
            after = [state.pid for state in subject.states()]
            assert after[busy] != before[busy]
            assert after[1 - busy] == before[1 - busy]
            with pytest.raises(LookupError, match="no runner 2"):
                await subject.restart(2, 1.0)

    run(test())


def test_restart_does_not_wait_for_ever() -> None:
    async def test() -> None:
        async with pool() as (subject, _):
            generation = subject.submit([request(subject, 4000)])
            await arrival(generation)
            await subject.restart(0, 0.2)
            await asyncio.sleep(0.05)
            with pytest.raises(PoolError, match="draining before it is restarted on request"):
                subject.submit([request(subject)])
            outputs = await drain(generation)
            assert outputs[-1].finish_reason == "error"
            await until(lambda: subject.status().ready == 1)

    run(test())


def test_runner_that_cannot_start_is_given_up_with_its_reason() -> None:
    async def test() -> None:
        async with pool(launch=spec("torch"), wait=False) as (subject, history):
            await until(lambda: subject.status().failed)
            assert "runner 0 was given up: " in subject.status().reason
            assert history[-1].failed
            with pytest.raises(PoolError) as caught:
                subject.submit([request(subject)])
            assert not caught.value.loading

    run(test())


def test_runner_whose_command_is_missing_is_given_up_with_its_reason() -> None:
    async def test() -> None:
        launch = msgspec.structs.replace(spec(), command=("/absent/mpirun", "-n", "2"))
        async with pool(launch=launch, wait=False) as (subject, _):
            await until(lambda: subject.status().failed)
            assert "could not be started" in subject.status().reason
            assert "/absent/mpirun" in subject.status().reason

    run(test())


def test_loading_is_reported_and_refuses_requests() -> None:
    async def test() -> None:
        async with pool(launch=spec(load_time=0.6), wait=False) as (subject, history):
            with pytest.raises(PoolError, match="being started"):
                subject.submit([request(subject)])
            await until(lambda: subject.status().ready == 1)
            fractions = [status.progress for status in history]
            assert fractions == sorted(fractions)
            assert any(0.2 < fraction < 0.9 for fraction in fractions)

    run(test())


def test_stop_leaves_no_process_and_no_socket() -> None:
    async def test() -> None:
        async with pool(replicas=2) as (subject, _):
            pids = [runner.pid for runner in subject.runners]
            endpoint = subject.runners[0].endpoint
            assert endpoint is not None
            directory = Path(endpoint.address.removeprefix("unix:")).parent
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert not directory.exists()
        for pid in pids:
            assert pid is not None
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    run(test())


def test_runner_ends_when_its_owner_is_gone() -> None:
    async def test() -> None:
        async with pool() as (subject, _):
            runner = subject.runners[0]
            handle = runner._handle
            assert isinstance(handle, SubprocessHandle)
            assert handle._process.stdin is not None
            handle._process.stdin.close()
            assert await handle.wait() == 0

    run(test())


def test_a_long_temporary_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A socket's path has at most 107 bytes."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))

    async def test() -> None:
        async with pool() as (subject, _):
            endpoint = subject.runners[0].endpoint
            assert endpoint is not None
            directory = Path(endpoint.address.removeprefix("unix:")).parent
            assert directory.parent == Path("/tmp")
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            assert len(await drain(subject.submit([request(subject)]))) >= 1
        assert not directory.exists()
        assert not list(long.iterdir())

    run(test())


def scaler(most: int, down_after_s: float = 0.5) -> Scaler:
    return Scaler(1, most, queue_s=0.3, kv_use=0.9, down_after_s=down_after_s)


def test_runners_are_added_for_a_queue_and_drained_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "SCALE_INTERVAL_S", 0.1)

    async def test() -> None:
        launch = spec(itl=0.01, max_batch_size=2)
        async with pool(3, launch, scaler=scaler(2)) as (subject, _):
            assert [runner.index for runner in subject.runners] == [0]
            first = [subject.submit([request(subject, 150)]) for _ in range(4)]
            await until(lambda: len(subject.runners) == 2)
            assert subject.report_now().wanted == 2
            await until(lambda: subject.status().ready == 2)
            last = [subject.submit([request(subject, 60)]) for _ in range(4)]
            assert subject.runners[1].load >= 3  # the queue of the other counts
            for generation in (*first, *last):
                outputs = await drain(generation)
                assert outputs[-1].finish_reason == "length"
            await until(lambda: len(subject.runners) == 1)
            assert (subject.status().ready, subject.status().total, subject.restarts) == (1, 1, 0)
            assert subject.moved == 0

    run(test())


def test_a_runner_that_is_drained_takes_part_again_when_one_is_wanted() -> None:
    async def test() -> None:
        rule = scaler(2, down_after_s=600)
        rule.wanted = 2
        async with pool(2, spec(itl=0.01), scaler=rule) as (subject, _):
            generations = [subject.submit([request(subject, 4000)]) for _ in range(2)]
            pids = [runner.pid for runner in subject.runners]
            subject.scale(1)
            assert [runner.retiring for runner in subject.runners] == [False, True]
            assert (subject.status().ready, subject.status().total) == (1, 1)
            subject.scale(2)
            assert subject.status().ready == 2
            assert [runner.pid for runner in subject.runners] == pids
            for generation in generations:
                generation.close()

    run(test())
