"""Dispatch over runners without processes: which one gets a sequence, and orphans."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from tests.unit.runners.fake_runner import FakeRunner
from trtllm_openai.errors import PoolError
from trtllm_openai.generation import GenerationRequest, SamplingParams, StepOutput
from trtllm_openai.runners.dispatch import SequencePool
from trtllm_openai.runners.generation import Generation
from trtllm_openai.runners.state import Phase, RunnerReport


class FakePool(SequencePool):
    def __init__(self, replicas: int) -> None:
        super().__init__(lambda: None)
        self._runners: list[FakeRunner] = []
        for index in range(replicas):
            runner = FakeRunner(index, self._adopt, self._changed, stall_timeout=30.0)
            self._runners.append(runner)
            runner.attach()
            runner.transition(Phase.READY)

    @property
    def runners(self) -> Sequence[FakeRunner]:
        return self._runners

    @property
    def restarts(self) -> int:
        return 0

    async def report(self) -> RunnerReport:
        return RunnerReport(self.states(), 0, self.wanted)

    async def restart(self, index: int, drain_timeout_s: float) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    def send(self) -> Generation:
        return self.submit([GenerationRequest(self.new_request_id(), [1], SamplingParams(5))])

    @property
    def loads(self) -> list[int]:
        return [runner.load for runner in self.runners]


def run(test: Callable[[], None]) -> None:
    async def main() -> None:
        test()

    asyncio.run(main())


@pytest.mark.parametrize(
    "phase", [Phase.STARTING, Phase.LOADING, Phase.DRAINING, Phase.FAILED, Phase.GIVEN_UP, Phase.UNRESPONSIVE]
)
def test_only_a_ready_runner_gets_sequences_while_there_is_one(phase: Phase) -> None:
    def test() -> None:
        pool = FakePool(2)
        pool.runners[0]._phase = phase  # the phase, however it came about
        pool._changed()
        for _ in range(3):
            pool.send()
        assert pool.loads == [0, 3]

    run(test)


@pytest.mark.parametrize(
    "phase", [Phase.STARTING, Phase.LOADING, Phase.DRAINING, Phase.FAILED, Phase.GIVEN_UP]
)
def test_no_sequences_without_a_ready_runner(phase: Phase) -> None:
    def test() -> None:
        pool = FakePool(1)
        pool.runners[0]._phase = phase
        with pytest.raises(PoolError, match="runner 0 ") as caught:
            pool.send()
        assert caught.value.loading is (phase is not Phase.GIVEN_UP)
        assert pool.loads == [0]

    run(test)


def test_an_unresponsive_runner_is_better_than_none() -> None:
    def test() -> None:
        pool = FakePool(1)
        pool.runners[0].transition(Phase.UNRESPONSIVE, "it gave no result for 9 s")
        pool.send()
        assert pool.loads == [1]

    run(test)


async def settle() -> None:
    """Let callbacks that were called soon run."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_sequence_is_begun_again_once_and_not_a_third_time() -> None:
    async def test() -> None:
        pool = FakePool(2)
        generation = pool.send()
        first = pool.loads.index(1)
        pool.runners[first].lose()
        await settle()
        assert pool.loads == [int(index != first) for index in (0, 1)]
        assert (pool.moved, generation.take()) == (1, [])
        pool.runners[first].begin_again()
        pool.runners[1 - first].lose()
        await settle()
        assert pool.loads == [0, 0]
        assert pool.moved == 1
        (failed,) = generation.take()
        assert (failed.finish_reason, failed.error) == ("error", "the runner was lost")
        assert pool.live == 0

    asyncio.run(test())


def test_a_sequence_with_output_is_not_begun_again() -> None:
    async def test() -> None:
        pool = FakePool(2)
        generation = pool.send()
        (runner,) = [runner for runner in pool.runners if runner.load]
        assert runner.connection is not None
        (request_id,) = generation.live
        runner.connection._dispatch([StepOutput(request_id, [7])])
        runner.lose()
        await settle()
        assert [output.finish_reason for output in generation.take()] == [None, "error"]
        assert (pool.moved, pool.live) == (0, 0)

    asyncio.run(test())


def test_orphans_wait_for_a_runner_and_fail_when_none_will_come() -> None:
    async def test() -> None:
        pool = FakePool(1)
        (runner,) = pool.runners
        waits, closed = pool.send(), pool.send()
        runner.lose()
        await settle()
        assert pool.live == 2
        closed.close()
        assert pool.live == 1
        runner.transition(Phase.GIVEN_UP, "it ended with status 3")
        (failed,) = waits.take()
        assert failed.error == "no model runner is left: runner 0 was given up: it ended with status 3"
        assert pool.live == 0

    asyncio.run(test())


def test_a_conversation_stays_where_it_is_until_its_runner_is_lost() -> None:
    async def test() -> None:
        pool = FakePool(3)
        prompt = list(range(600))

        def turn() -> int:
            before = pool.loads
            request = GenerationRequest(pool.new_request_id(), prompt, SamplingParams(5))
            generation = pool.submit([request])
            (place,) = [index for index in range(3) if pool.loads[index] > before[index]]
            runner = pool.runners[place]
            assert runner.connection is not None
            runner.connection._dispatch([StepOutput(request.request_id, [7], cached_tokens=512)])
            runner.connection._dispatch([StepOutput(request.request_id, [8], "stop")])
            generation.close()
            prompt.extend(range(100))
            return place

        places = {turn() for _ in range(6)}
        assert len(places) == 1
        (place,) = places
        pool.runners[place].lose()
        elsewhere = {turn() for _ in range(6)}
        assert len(elsewhere) == 1
        pool.runners[place].begin_again()
        assert {turn() for _ in range(3)} == elsewhere

    asyncio.run(test())


def test_aborted_and_ended_sequences_are_no_work() -> None:
    async def test() -> None:
        pool = FakePool(2)
        generations = [pool.send() for _ in range(6)]
        assert pool.loads == [3, 3]
        for generation in generations:
            generation.close()
        assert pool._router is not None
        assert pool._router.work == [0, 0]

    asyncio.run(test())
