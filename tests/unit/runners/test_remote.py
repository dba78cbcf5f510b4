"""A runner as an HTTP worker sees it: the supervisor's reports, the worker's own connection, and its loss."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.unit.runners.peer import INFO, RunnerPeer
from tests.unit.runners.test_pool import run, until
from trtllm_openai.engine_host.messages import Failed, Outputs
from trtllm_openai.generation import GenerationRequest, SamplingParams, StepOutput
from trtllm_openai.runners.generation import Generation
from trtllm_openai.runners.remote import RemoteRunner
from trtllm_openai.runners.runner import RUNNER_LOST
from trtllm_openai.runners.state import Endpoint, Phase, RunnerState


class Worker:
    """The rest of an HTTP worker: adopts lost sequences, records phases and what the supervisor is told."""

    def __init__(self, stall_timeout: float) -> None:
        self.phases: list[Phase] = []
        self.adopted: list[str] = []
        self.silences: list[tuple[Endpoint, str, float]] = []
        self.runner = RemoteRunner(
            RunnerState(index=0, state=Phase.STARTING),
            self._adopt,
            lambda: self.phases.append(self.runner.phase),
            lambda *silence: self.silences.append(silence),
            stall_timeout=stall_timeout,
        )

    def _adopt(self, request: GenerationRequest, generation: Generation) -> bool:
        self.adopted.append(request.request_id)
        return True

    def report(self, phase: Phase, endpoint: Endpoint | None, reason: str = "") -> None:
        """Have the supervisor report the runner in `phase`."""
        self.runner.update(RunnerState(index=0, state=phase, reason=reason, loaded=0.5, endpoint=endpoint))

    def submit(self, name: str) -> Generation:
        assert self.runner.connection is not None
        generation = Generation([name], self.runner.connection.abort)
        self.runner.connection.submit([GenerationRequest(name, [1], SamplingParams(5))], generation)
        return generation


@asynccontextmanager
async def serving(
    directory: Path, stall_timeout: float = 30.0
) -> AsyncIterator[tuple[RunnerPeer, Worker, RemoteRunner]]:
    """A runner that is ready, and a worker that is connected to it."""
    peer = RunnerPeer(directory / "runner.sock")
    await peer.listen()
    worker = Worker(stall_timeout)
    try:
        worker.report(Phase.READY, peer.endpoint)
        await until(lambda: peer.accepted)
        peer.be_ready()
        await until(lambda: worker.runner.phase is Phase.READY)
        yield peer, worker, worker.runner
    finally:
        worker.runner.disconnect("the test ends", lost=False)
        await peer.close()


def test_a_ready_runner_is_used_only_once_it_is_connected(tmp_path: Path) -> None:
    async def test() -> None:
        peer = RunnerPeer(tmp_path / "runner.sock")
        worker = Worker(30.0)
        worker.report(Phase.LOADING, peer.endpoint, "weights")
        assert (worker.runner.phase, worker.runner.reason) == (Phase.LOADING, "weights")
        assert worker.runner.state().loaded == 0.5
        worker.report(Phase.READY, peer.endpoint)
        assert (worker.runner.phase, worker.runner.reason) == (
            Phase.LOADING,
            "an HTTP process is connecting to it",
        )
        await peer.listen()
        await until(lambda: peer.accepted)
        peer.be_ready()
        await until(lambda: worker.runner.phase is Phase.READY)
        assert worker.runner.info == INFO
        worker.runner.disconnect("", lost=False)
        await peer.close()

    run(test())


def test_it_connects_again_after_a_broken_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as (peer, worker, runner):
            told, untold = worker.submit("told"), worker.submit("untold")
            await until(lambda: len(peer.submitted) == 2)
            peer.send(Outputs([StepOutput("told", [7])]))
            await until(lambda: told.waiting)
            worker.phases.clear()
            peer.drop()  # the runner lives and goes on listening; the supervisor reports nothing new
            await until(lambda: peer.accepted == 2)
            assert worker.phases == [Phase.FAILED, Phase.STARTING]
            assert runner.reason == "an HTTP process is connecting to it"
            assert [output.error for output in told.take()] == [None, RUNNER_LOST]
            assert (worker.adopted, untold.take(), runner.load) == (["untold"], [], 0)
            peer.be_ready()
            await until(lambda: runner.phase is Phase.READY)
            again = worker.submit("again")
            await until(lambda: peer.submitted[-1] == "again")
            peer.send(Outputs([StepOutput("again", [8], "stop")]))
            await until(lambda: again.waiting)
            assert [output.token_ids for output in again.take()] == [[8]]

    run(test())


def test_it_connects_again_every_time(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as (peer, _, runner):
            for connections in range(2, 6):
                peer.drop()
                await until(lambda connections=connections: peer.accepted == connections)  # type: ignore[misc]  # mypy infers no default
                peer.be_ready()
                await until(lambda: runner.phase is Phase.READY)

    run(test())


def test_a_runner_that_ended_is_not_used_until_it_is_reported_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as (peer, worker, runner):
            await peer.close()
            await until(lambda: runner.phase is not Phase.READY)
            worker.report(Phase.FAILED, None, "it was killed by signal 9")
            assert (runner.phase, runner.reason) == (Phase.FAILED, "it was killed by signal 9")
            assert runner.connection is None
            successor = RunnerPeer(tmp_path / "successor.sock")
            await successor.listen()
            worker.report(Phase.STARTING, successor.endpoint)
            await until(lambda: successor.accepted)
            successor.be_ready()
            worker.report(Phase.READY, successor.endpoint)
            await until(lambda: runner.phase is Phase.READY)
            runner.disconnect("", lost=False)
            await successor.close()

    run(test())


def test_a_new_endpoint_replaces_the_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as (_, worker, runner):
            worker.submit("untold")
            successor = RunnerPeer(tmp_path / "successor.sock")
            await successor.listen()
            worker.report(Phase.READY, successor.endpoint)
            assert worker.adopted == ["untold"]
            assert (runner.phase, runner.endpoint) == (Phase.STARTING, successor.endpoint)
            await until(lambda: successor.accepted)
            successor.be_ready()
            await until(lambda: runner.phase is Phase.READY)
            runner.disconnect("", lost=False)
            await successor.close()

    run(test())


def test_a_runner_that_says_it_failed_is_left_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as (peer, worker, runner):
            worker.submit("untold")
            worker.submit("another")
            peer.send(Failed("the engine failed", final=False))
            await until(lambda: runner.phase is Phase.FAILED)
            assert worker.adopted == ["untold", "another"]
            assert runner.connection is None

    run(test())


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.UNRESPONSIVE])
def test_a_connected_runner_is_in_the_phase_that_is_reported(tmp_path: Path, phase: Phase) -> None:
    async def test() -> None:
        async with serving(tmp_path) as (peer, worker, runner):
            worker.report(phase, peer.endpoint, "another worker's reason")
            assert (runner.phase, runner.reason) == (phase, "another worker's reason")
            assert runner.connection is not None
            assert peer.accepted == 1

    run(test())


def test_silence_is_told_to_the_supervisor_until_it_ends(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path, stall_timeout=1.2) as (peer, worker, runner):
            worker.submit("waits")
            await until(lambda: runner.phase is Phase.UNRESPONSIVE)
            endpoint, reason, seconds = worker.silences[0]
            assert endpoint == peer.endpoint
            assert reason == runner.reason == "it gave no result for 0 s while 1 requests ran"
            assert seconds > 0.3
            peer.send(Outputs([StepOutput("waits", [1], "stop")]))
            await until(lambda: runner.phase is Phase.READY)
            assert worker.silences[-1] == (peer.endpoint, "", 0.0)
            told = len(worker.silences)
            await asyncio.sleep(0.5)
            assert len(worker.silences) == told

    run(test())


def test_one_that_is_drained_may_end_before_that_is_reported(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as (peer, worker, runner):
            worker.report(Phase.DRAINING, peer.endpoint, "before it is ended")
            peer.drop()
            await until(lambda: runner.phase is Phase.FAILED)
            worker.report(Phase.DRAINING, peer.endpoint, "before it is ended")
            assert runner.phase is Phase.FAILED

    run(test())


def test_one_that_is_needed_again_serves_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as (peer, worker, runner):
            worker.report(Phase.DRAINING, peer.endpoint)
            serves = [runner.serves]
            worker.report(Phase.READY, peer.endpoint)
            assert [*serves, runner.serves] == [False, True]
            late = Worker(30.0)
            late.report(Phase.DRAINING, peer.endpoint)
            late.report(Phase.READY, peer.endpoint)
            assert late.runner.phase is Phase.STARTING  # it is not connected yet
            late.runner.disconnect("the test ends", lost=False)

    run(test())
