"""The base of all runners: its state for admins, its connection, and detection of a stalled engine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.unit.runners.peer import RunnerPeer
from tests.unit.runners.test_pool import run, until
from trtllm_openai.engine_host.messages import Failed, Loading, Outputs, Ready, Stats
from trtllm_openai.generation import EngineStats, GenerationRequest, SamplingParams, StepOutput
from trtllm_openai.runners.connection import RunnerConnection
from trtllm_openai.runners.generation import Generation
from trtllm_openai.runners.runner import UNRESPONSIVE_SHARE, Runner
from trtllm_openai.runners.state import Phase

STALL_TIMEOUT_S = 1.6


class Subject(Runner):
    """Records its events instead of judging them."""

    def __init__(self) -> None:
        super().__init__(1, lambda *_: False, lambda: None, stall_timeout=STALL_TIMEOUT_S)
        self.silences: list[float] = []

    def _hear(self, connection: RunnerConnection, message: Loading | Ready | Failed) -> None:
        """The tests set the phase."""

    def _closed(self, connection: RunnerConnection) -> None:
        """The tests close it."""

    def _silent(self, seconds: float) -> None:
        self.silences.append(seconds)

    def submit(self, *names: str) -> Generation:
        assert self.connection is not None
        generation = Generation(names, self.connection.abort)
        requests = [GenerationRequest(name, [1], SamplingParams(5)) for name in names]
        self.connection.submit(requests, generation)
        return generation


@asynccontextmanager
async def connected(directory: Path) -> AsyncIterator[tuple[RunnerPeer, Subject]]:
    peer = RunnerPeer(directory / "runner.sock")
    await peer.listen()
    subject = Subject()
    subject.connect(peer.endpoint)
    try:
        await until(lambda: peer.accepted)
        yield peer, subject
    finally:
        subject.disconnect("the test ends", lost=False)
        await peer.close()


def test_silence_counts_only_while_requests_run_and_its_end_is_reported(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (peer, subject):
            threshold = UNRESPONSIVE_SHARE * STALL_TIMEOUT_S
            await asyncio.sleep(2 * threshold)
            assert subject.silences == []  # idle for longer than that
            subject.submit("a")
            await until(lambda: len(subject.silences) >= 2)
            assert threshold < subject.silences[0] < subject.silences[1]
            peer.send(Outputs([StepOutput("a", [1], "stop")]))
            await until(lambda: subject.silences[-1] == 0)
            reported = len(subject.silences)
            await asyncio.sleep(2 * threshold)
            assert len(subject.silences) == reported

    run(test())


def test_a_runner_that_gives_results_is_not_silent(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (peer, subject):
            subject.submit("a")
            for steps in range(12):  # 1.2 s in all; a long prefill shows in the statistics alone
                peer.send(Stats(EngineStats(running=1, steps=steps + 1)))
                await asyncio.sleep(0.1)
            assert subject.silences == []

    run(test())


def test_disconnecting_ends_sequences_and_the_watch(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (_, subject):
            generation = subject.submit("a", "b")
            assert subject.load == 2
            subject.disconnect("the server is shutting down", lost=False)
            assert {output.error for output in generation.take()} == {"the server is shutting down"}
            assert (subject.connection, subject.load, subject.endpoint) == (None, 0, None)
            await asyncio.sleep(2 * UNRESPONSIVE_SHARE * STALL_TIMEOUT_S)
            assert subject.silences == []

    run(test())


def test_state_counts_sequences_of_all_processes(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (peer, subject):
            subject.submit("a", "b")
            assert subject.state().sequences == 2
            peer.send(Stats(EngineStats(running=4, waiting=3)))
            await until(lambda: subject.state().sequences == 7)
            peer.send(Stats(EngineStats(running=1)))  # one of ours is not in it yet
            await until(lambda: subject.state().sequences == 2)
            assert subject.state().endpoint == peer.endpoint

    run(test())


@pytest.mark.parametrize("phase", Phase)
def test_loaded_share_of_each_phase(phase: Phase) -> None:
    subject = Subject()
    subject.loaded = 0.25
    subject.transition(phase, "a reason")
    state = subject.state()
    expected = {Phase.STARTING: 0.25, Phase.LOADING: 0.25, Phase.FAILED: 0.0, Phase.GIVEN_UP: 0.0}
    assert (state.index, state.state, state.reason) == (1, phase, "a reason")
    assert state.loaded == expected.get(phase, 1.0)
