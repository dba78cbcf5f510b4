"""Pools of two workers attached to the runners of one owner, with real runner processes."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.unit.runners.test_pool import arrival, drain, request, run, spec, until
from trtllm_openai.runners import RunnerPool
from trtllm_openai.runners.attached import AttachedPool
from trtllm_openai.runners.scaling import Scaler
from trtllm_openai.runners.state import RunnerReport, RunnerUnresponsive


class Supervisor:
    """Stands in for the supervisor; implements `SupervisorClient`."""

    def __init__(self, replicas: int, stall_timeout: float, scaler: Scaler | None) -> None:
        self.attached: list[AttachedPool] = []
        self.pool = RunnerPool(
            [spec()] * replicas,
            load_timeout=30,
            stall_timeout=stall_timeout,
            retry_interval=60,
            on_change=self.tell_all,
            scaler=scaler,
        )
        self.heard: list[RunnerUnresponsive] = []

    def tell_all(self) -> None:
        for pool in self.attached:
            pool.update(self.pool.report_now())

    def tell(self, message: RunnerUnresponsive) -> None:
        self.heard.append(message)
        self.pool.report_silence("a worker", message.address, message.reason, message.seconds)

    async def runners(self) -> RunnerReport:
        return self.pool.report_now()

    async def restart(self, index: int, drain_timeout_s: float) -> bool:
        await self.pool.restart(index, drain_timeout_s)
        return True


@asynccontextmanager
async def attached(
    replicas: int = 1, stall_timeout: float = 30.0, scaler: Scaler | None = None
) -> AsyncIterator[tuple[Supervisor, AttachedPool, AttachedPool]]:
    owner = Supervisor(replicas, stall_timeout, scaler)
    for row, name in enumerate("ab"):
        owner.attached.append(
            AttachedPool(name, row, owner, stall_timeout=stall_timeout, on_change=lambda: None)
        )
    owner.pool.start()
    first, second = owner.attached
    try:
        await until(lambda: first.status().ready == second.status().ready == owner.pool.wanted)
        yield owner, first, second
    finally:
        for pool in (first, second):
            await pool.stop()
        await owner.pool.stop()


def elsewhere(pool: AttachedPool, index: int) -> int:
    connection = pool.runners[index].connection
    return connection.elsewhere if connection is not None else 0


def test_each_hears_of_its_own_sequences() -> None:
    async def test() -> None:
        async with attached() as (owner, first, second):
            generations = [pool.submit([request(pool, 20), request(pool, 20)]) for pool in (first, second)]
            ids = [set(generation.live) for generation in generations]
            assert not ids[0] & ids[1]
            for generation, mine in zip(generations, ids, strict=True):
                outputs = await drain(generation)
                assert {output.request_id for output in outputs} == mine
                assert sum(len(output.token_ids) for output in outputs) == 40
            for pool in (owner.pool, first, second):
                await until(lambda pool=pool: pool.stats.generated_tokens == 80)  # type: ignore[misc]  # mypy infers no default

    run(test())


def test_dispatch_counts_sequences_of_other_processes() -> None:
    async def test() -> None:
        async with attached(2) as (owner, first, second):
            held = first.submit([request(first, 4000) for _ in range(6)])
            (busy,) = [runner.index for runner in first.runners if runner.load]
            await until(lambda: elsewhere(second, busy) == 6)
            others = [second.submit([request(second, 4000)]) for _ in range(4)]
            assert [runner.load for runner in second.runners] == [
                0 if index == busy else 4 for index in (0, 1)
            ]
            await until(lambda: sorted(state.sequences for state in owner.pool.states()) == [4, 6])
            for generation in (held, *others):
                generation.close()

    run(test())


def test_first_requests_of_two_workers_go_to_two_runners() -> None:
    async def test() -> None:
        async with attached(2) as (_, first, second):
            held = [pool.submit([request(pool, 4000)]) for pool in (first, second)]
            assert [runner.load for runner in first.runners] != [runner.load for runner in second.runners]
            for generation in held:
                generation.close()

    run(test())


def test_a_worker_that_is_gone_leaves_no_sequences() -> None:
    async def test() -> None:
        async with attached() as (owner, first, second):
            gone = [first.submit([request(first, 4000)]) for _ in range(3)]
            stays = second.submit([request(second, 4000)])
            for generation in (*gone, stays):
                await arrival(generation)
            await until(lambda: owner.pool.stats.running == 4)
            await first.stop()
            await until(lambda: owner.pool.stats.running == 1)
            await arrival(stays)
            assert owner.pool.stats.running == 1
            stays.close()

    run(test())


def test_a_killed_runner_is_attached_to_again() -> None:
    async def test() -> None:
        async with attached() as (owner, first, second):
            told = first.submit([request(first, 4000)])
            await arrival(told)
            pid = owner.pool.runners[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            outputs = await drain(told)
            assert outputs[-1].finish_reason == "error"
            await until(lambda: first.status().ready == second.status().ready == 1)
            assert first.restarts == second.restarts == 1
            for pool in (first, second):
                assert len(await drain(pool.submit([request(pool, 3)]))) >= 1

    run(test())


def test_a_sequence_of_which_nothing_was_told_moves() -> None:
    async def test() -> None:
        async with attached() as (owner, first, _):
            pid = owner.pool.runners[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            untold = first.submit([request(first, 5)])
            os.kill(pid, signal.SIGKILL)
            outputs = await drain(untold)
            assert sum(len(output.token_ids) for output in outputs) == 5
            assert first.moved == 1

    run(test())


def test_a_silent_runner_is_reported_shunned_and_replaced() -> None:
    async def test() -> None:
        async with attached(2, stall_timeout=2.0) as (owner, first, second):
            waits = first.submit([request(first, 4000)])
            await arrival(waits)
            (index,) = [runner.index for runner in first.runners if runner.load]
            pid = owner.pool.runners[index].pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            await until(lambda: second.runners[index].phase == "unresponsive")
            assert second.states()[index].state == "unresponsive"
            assert "gave no result" in owner.heard[0].reason
            others = [second.submit([request(second)]) for _ in range(4)]
            assert second.runners[index].load == 0
            outputs = await drain(waits)
            assert outputs[-1].finish_reason == "error"
            await until(lambda: first.status().ready == second.status().ready == 2)
            for generation in others:
                generation.close()

    run(test())


def test_a_restart_on_request_sends_nothing_new() -> None:
    async def test() -> None:
        async with attached(2) as (owner, first, second):
            held = first.submit([request(first, 100)])
            (index,) = [runner.index for runner in first.runners if runner.load]
            await until(lambda: owner.pool.states()[index].sequences == 1)
            await second.restart(index, 10.0)
            await until(lambda: second.states()[index].state == "draining")
            more = [second.submit([request(second)]) for _ in range(4)]
            assert second.runners[index].load == 0
            assert (await drain(held))[-1].finish_reason == "length"
            await until(lambda: first.restarts == 1 and first.status().ready == 2)
            assert [runner.index for runner in first.runners] == [0, 1]
            for generation in more:
                generation.close()

    run(test())


def test_runners_come_and_go_as_they_are_reported() -> None:
    async def test() -> None:
        scaler = Scaler(1, 2, queue_s=60, kv_use=1.0, down_after_s=600)
        async with attached(2, scaler=scaler) as (_, first, second):
            assert [len(pool.runners) for pool in (first, second)] == [1, 1]
            scaler.wanted = 2
            for pool in (first, second):
                await until(lambda pool=pool: pool.status().ready == 2)  # type: ignore[misc]  # mypy infers no default
                assert pool.wanted == 2
            generations = [first.submit([request(first, 100)]) for _ in range(4)]
            assert first.runners[1].load
            scaler.wanted = 1
            await until(lambda: first.runners[1].retiring)
            others = [first.submit([request(first, 1)]) for _ in range(3)]
            for generation in (*generations, *others):
                assert (await drain(generation))[-1].finish_reason == "length"
            await until(lambda: len(second.runners) == 1)
            assert first.moved == 0

    run(test())
