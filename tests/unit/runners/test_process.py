"""The state machine of a launched runner: timeouts, failures, silence, drain and shutdown.

The process is a fake with a real socket; `test_pool` runs the real one.
"""

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from tests.unit.runners.peer import INFO, RunnerPeer
from tests.unit.runners.test_pool import run, spec, until
from trtllm_openai.engine_host.messages import CANNOT_START, Failed, LaunchSpec, Loading, Outputs, Stats
from trtllm_openai.generation import EngineStats, GenerationRequest, SamplingParams, StepOutput
from trtllm_openai.processes import keep_running
from trtllm_openai.runners import process
from trtllm_openai.runners.connection import FAILED_ON_REQUEST
from trtllm_openai.runners.generation import Generation
from trtllm_openai.runners.process import RunnerProcess
from trtllm_openai.runners.runner import RUNNER_LOST, SHUTTING_DOWN
from trtllm_openai.runners.state import Phase


class FakeHandle:
    """A started process: it listens, ends when it is told to, and records signals."""

    def __init__(self, peer: RunnerPeer, *, stubborn: bool) -> None:
        self.peer = peer
        self.address = peer.endpoint.address
        self.signals: list[str] = []
        self._stubborn = stubborn
        self._exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.lost_rank: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()  # from the GPUs
        self.gone.set()

    @property
    def pid(self) -> int | None:
        return None if self._exited.done() else 4711

    async def wait(self) -> int:
        return await self._exited

    async def lost(self) -> str:
        return await self.lost_rank

    async def cleared(self, timeout_s: float) -> None:
        await self.gone.wait()

    def exit(self, status: int) -> None:
        """The process ends by itself; the system closes its connections."""
        if not self._exited.done():
            self._exited.set_result(status)
            self.peer.drop()

    def terminate(self) -> None:
        self.signals.append("terminate")
        if not self._stubborn:
            self.exit(0)

    def kill(self) -> None:
        self.signals.append("kill")
        self.exit(-signal.SIGKILL)


class FakeLauncher:
    """Starts fake processes; `stubborn` ones ignore SIGTERM."""

    encrypted = False

    def __init__(self, directory: Path) -> None:
        self.handles: list[FakeHandle] = []
        self.specs: list[LaunchSpec] = []
        self.stubborn = False
        self._directory = directory

    async def start(self, spec: LaunchSpec) -> FakeHandle:
        self.specs.append(spec)
        peer = RunnerPeer(self._directory / f"{len(self.handles)}.sock")
        await peer.listen()
        self.handles.append(FakeHandle(peer, stubborn=self.stubborn))
        return self.handles[-1]

    def close(self) -> None:
        """Nothing is shared."""


class Subject:
    """A `RunnerProcess` with its history."""

    def __init__(
        self, directory: Path, load_timeout: float, stall_timeout: float, retry_interval: float
    ) -> None:
        self.launcher = FakeLauncher(directory)
        self.history: list[tuple[Phase, str]] = []
        self.adopted: list[str] = []
        self.runner = RunnerProcess(
            msgspec.structs.replace(spec(), index=2, gpus="4,5"),
            self.launcher,
            self._adopt,
            lambda: self.history.append((self.runner.phase, self.runner.reason)),
            load_timeout=load_timeout,
            stall_timeout=stall_timeout,
            retry_interval=retry_interval,
        )

    def _adopt(self, request: GenerationRequest, generation: Generation) -> bool:
        self.adopted.append(request.request_id)
        return True

    @property
    def peer(self) -> RunnerPeer:
        """The latest process's end of the connection."""
        return self.launcher.handles[-1].peer

    async def ready(self, launches: int = 1) -> FakeHandle:
        """Have the process of this launch connect and be ready."""
        await until(lambda: len(self.launcher.handles) == launches and self.peer.accepted)
        self.peer.be_ready()
        await until(lambda: self.runner.phase is Phase.READY)
        return self.launcher.handles[-1]

    def submit(self, name: str) -> Generation:
        assert self.runner.connection is not None
        generation = Generation([name], self.runner.connection.abort)
        self.runner.connection.submit([GenerationRequest(name, [1], SamplingParams(5))], generation)
        return generation

    def failure(self) -> str:
        """The reason of the latest failure."""
        return next(reason for phase, reason in reversed(self.history) if phase is Phase.FAILED)

    def has_failed(self) -> bool:
        return any(phase is Phase.FAILED for phase, _ in self.history)


@asynccontextmanager
async def started(
    directory: Path, load_timeout: float = 30.0, stall_timeout: float = 30.0, retry_interval: float = 60.0
) -> AsyncIterator[Subject]:
    subject = Subject(directory, load_timeout, stall_timeout, retry_interval)
    subject.runner.start()
    try:
        yield subject
    finally:
        await subject.runner.stop()
        for handle in subject.launcher.handles:
            await handle.peer.close()


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "EXIT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(process, "LAST_MESSAGE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(keep_running.Backoff, "delay", lambda self, failures: 0.05)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SETTLED_S", 0.2)


def test_loading_then_ready_with_the_facts_of_the_engine(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            await until(lambda: subject.launcher.handles and subject.peer.accepted)
            subject.peer.send(Loading(0.5, "weights"))
            await until(lambda: subject.runner.phase is Phase.LOADING)
            assert (subject.runner.reason, subject.runner.state().loaded) == ("weights", 0.5)
            assert subject.runner.pid == 4711
            assert subject.runner.state().gpus == "4,5"
            await subject.ready()
            assert subject.runner.info == INFO
            assert [phase for phase, _ in subject.history] == [Phase.STARTING, Phase.LOADING, Phase.READY]

    run(test())


def test_one_that_does_not_load_in_time_is_replaced(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path, load_timeout=0.3) as subject:
            await until(lambda: len(subject.launcher.handles) == 2)
            assert subject.failure() == "it did not load within 0.3 s"
            assert subject.launcher.handles[0].signals[0] == "terminate"
            await subject.ready(2)
            await asyncio.sleep(0.5)
            assert subject.runner.phase is Phase.READY  # the timeout is over with the loading

    run(test())


def test_each_launch_has_its_own_secret(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            first = await subject.ready()
            endpoint = subject.runner.endpoint
            first.exit(1)
            await subject.ready(2)
            secrets = [one.secret for one in subject.launcher.specs]
            assert len(set(secrets)) == 2
            assert all(len(secret) == 64 for secret in secrets)
            assert endpoint is not None
            assert endpoint.secret == secrets[0]
            assert subject.runner.endpoint is not None
            assert subject.runner.endpoint.secret == secrets[1]

    run(test())


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda handle: handle.exit(1), "it ended with status 1"),
        (lambda handle: handle.exit(-9), "it was killed by signal 9"),
        (lambda handle: handle.peer.drop(), "it closed its connection"),
        (lambda handle: handle.peer.send(Failed("CUDA error", final=False)), "CUDA error"),
        (lambda handle: handle.lost_rank.set_result("rank 1 ended"), "rank 1 ended"),
    ],
)
def test_a_failure_has_its_reason_and_moves_sequences(
    tmp_path: Path, end: Callable[[FakeHandle], None], reason: str
) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            handle = await subject.ready()
            told = subject.submit("told")
            subject.submit("untold")
            subject.peer.send(Outputs([StepOutput("told", [1])]))
            await until(lambda: told.waiting)
            end(handle)
            await until(lambda: subject.launcher.specs[1:])
            assert subject.failure() == reason
            assert [output.error for output in told.take()] == [None, RUNNER_LOST]
            assert subject.adopted == ["untold"]
            assert handle.signals[-1] == "kill"  # also what the process started and left behind
            await subject.ready(2)

    run(test())


@pytest.mark.parametrize(("beside", "moves"), [(False, False), (True, True)])
def test_a_request_alone_on_a_failed_engine_is_not_begun_again(
    tmp_path: Path, beside: bool, moves: bool
) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            await subject.ready()
            assert subject.runner.connection is not None
            names = ["r1", "r2"]  # the two choices of one request
            generation = Generation(names, subject.runner.connection.abort)
            requests = [GenerationRequest(name, [1], SamplingParams(5)) for name in names]
            subject.runner.connection.submit(requests, generation)
            if beside:
                subject.submit("another")
            subject.peer.send(Failed("IndexError", final=False))
            await until(subject.has_failed)
            await until(lambda: subject.runner.launches == 2)
            assert sorted(subject.adopted) == (["another", *names] if moves else [])
            assert [output.error for output in generation.take()] == (
                [] if moves else [FAILED_ON_REQUEST] * 2
            )

    run(test())


def test_the_last_message_says_more_than_the_exit_status(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            handle = await subject.ready()
            subject.peer.send(Failed("out of memory", final=False))
            handle.exit(1)
            await until(subject.has_failed)
            assert subject.failure() == "out of memory"

    run(test())


def test_a_runners_own_reason_precedes_a_lost_rank(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            handle = await subject.ready()
            handle.lost_rank.set_result("rank 0 ended")  # it is seen first
            await asyncio.sleep(0)
            subject.peer.send(Failed("out of memory", final=False))
            await until(subject.has_failed)
            assert subject.failure() == "out of memory"

    run(test())


def test_a_runner_without_one_of_its_ranks_is_killed_and_replaced_once_all_of_it_is_gone(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            await until(lambda: subject.launcher.handles and subject.peer.accepted)  # it loads
            (handle,) = subject.launcher.handles
            handle.gone.clear()
            handle.lost_rank.set_result("rank 1 was killed by signal 9")
            await until(lambda: handle.signals)
            assert handle.signals[0] == "kill"  # it could not end by itself
            await asyncio.sleep(0.3)
            assert len(subject.launcher.handles) == 1  # a rank still holds a GPU
            handle.gone.set()
            await subject.ready(2)

    run(test())


def test_a_failed_runner_may_not_be_reached(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            handle = await subject.ready()
            endpoints = []
            subject.runner._on_change = lambda: endpoints.append(subject.runner.endpoint)
            handle.exit(1)
            await until(lambda: endpoints)
            assert endpoints[0] is None

    run(test())


@pytest.mark.parametrize("says", [True, False])
def test_a_final_failure_gives_it_up_until_it_is_asked_for(tmp_path: Path, says: bool) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            await until(lambda: subject.launcher.handles and subject.peer.accepted)
            if says:
                subject.peer.send(Failed("the checkpoint is bad", final=True))
            else:
                subject.launcher.handles[0].exit(CANNOT_START)
            await until(lambda: subject.runner.phase is Phase.GIVEN_UP)
            expected = "the checkpoint is bad" if says else f"it ended with status {CANNOT_START}"
            assert subject.runner.reason == expected
            assert (subject.runner.launches, subject.runner.endpoint) == (1, None)
            subject.runner.restart(1.0)
            await subject.ready(2)

    run(test())


def test_one_that_fails_again_and_again_is_given_up(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            for launch in itertools.count(1):
                await until(
                    lambda launch=launch: (  # type: ignore[misc]  # mypy infers no default
                        len(subject.launcher.handles) == launch or subject.runner.phase is Phase.GIVEN_UP
                    )
                )
                if subject.runner.phase is Phase.GIVEN_UP:
                    break
                subject.launcher.handles[-1].exit(1)
                await until(lambda: subject.runner.phase is not Phase.STARTING)
            assert subject.runner.launches == keep_running.MAX_FAILURES
            assert subject.runner.reason == "it ended with status 1"

    run(test())


def test_one_that_was_given_up_is_tried_again_after_a_pause(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path, retry_interval=0.2) as subject:
            for launch in (1, 2):
                await until(lambda launch=launch: subject.launcher.handles[launch - 1 :])  # type: ignore[misc]
                subject.launcher.handles[-1].exit(CANNOT_START)
                await until(lambda: subject.runner.phase is Phase.GIVEN_UP)
            await subject.ready(3)

    run(test())


def test_what_ends_a_loaded_runner_never_gives_it_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_running.Backoff, "delay", lambda *_: 0.01)

    async def test() -> None:
        async with started(tmp_path) as subject:
            for launch in range(1, keep_running.MAX_FAILURES + 3):
                (await subject.ready(launch)).exit(1)
                await until(lambda: subject.runner.phase is not Phase.READY)
            await subject.ready(keep_running.MAX_FAILURES + 3)
            assert all(phase is not Phase.GIVEN_UP for phase, _ in subject.history)

    run(test())


@pytest.mark.parametrize(
    ("in_service", "when"), [(61.0, "now"), (59.0, "in 0.002 s")], ids=["long", "not long"]
)
def test_one_that_served_for_long_is_replaced_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    in_service: float,
    when: str,
) -> None:
    """The failures before it count only if it did not; how long it took to load does not matter."""
    now = [1000.0]
    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(keep_running.Backoff, "delay", lambda _, failures: failures / 1000)

    async def test() -> None:
        async with started(tmp_path) as subject:
            await until(lambda: bool(subject.launcher.handles))
            subject.launcher.handles[0].exit(1)
            await until(lambda: len(subject.launcher.handles) == 2 and subject.peer.accepted)
            now[0] += 3600
            handle = await subject.ready(2)
            now[0] += in_service
            handle.exit(1)
            await subject.ready(3)

    run(test())
    ends = [record.message.rpartition("starting it again ")[2] for record in caplog.records]
    assert ends == ["in 0.001 s", when]


def test_silence_of_any_observer_makes_it_unresponsive_until_none_is_left(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            runner = subject.runner
            runner.report_silence("a", "too early", 1.0)
            assert Phase.UNRESPONSIVE not in [phase for phase, _ in subject.history]
            await subject.ready()
            runner.report_silence("a", "silent to a", 8.0)
            runner.report_silence("b", "silent to b", 8.0)
            assert (runner.phase, runner.reason) == (Phase.UNRESPONSIVE, "silent to a")
            runner.report_silence("a", "", 0.0)
            assert (runner.phase, runner.reason) == (Phase.UNRESPONSIVE, "silent to b")
            runner.forget_observer("nobody")
            assert subject.history[-1][0] is Phase.UNRESPONSIVE
            runner.forget_observer("b")
            assert subject.history[-1] == (Phase.READY, "")

    run(test())


def test_silence_beyond_the_stall_timeout_kills_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path, stall_timeout=1.0) as subject:
            handle = await subject.ready()
            subject.submit("untold")
            await until(lambda: subject.runner.phase is Phase.UNRESPONSIVE)
            await until(subject.has_failed)
            assert "gave no result" in subject.failure()
            assert handle.signals[0] == "kill"  # it would not end when it is asked to
            await until(lambda: subject.adopted == ["untold"])
            await subject.ready(2)

    run(test())


def test_a_restart_waits_for_sequences_and_is_done_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            handle = await subject.ready()
            held = subject.submit("held")
            subject.runner.restart(20.0)
            subject.runner.restart(0.0)  # one is under way
            await asyncio.sleep(0.2)
            assert subject.runner.phase is Phase.DRAINING
            assert handle.signals == []
            subject.peer.send(Outputs([StepOutput("held", [1], "stop")]))
            await until(subject.has_failed)
            assert subject.failure() == "it was restarted on request"
            assert [output.finish_reason for output in held.take()] == ["stop"]
            await subject.ready(2)
            assert subject.runner.launches == 2

    run(test())


def test_a_restart_does_not_wait_longer_than_it_was_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            await subject.ready()
            subject.submit("untold")
            subject.runner.restart(0.2)
            await subject.ready(2)
            assert subject.adopted == ["untold"]

    run(test())


@pytest.mark.parametrize("stubborn", [False, True])
def test_shutdown_is_polite_first(tmp_path: Path, stubborn: bool) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            subject.launcher.stubborn = stubborn
            handle = await subject.ready()
            live = subject.submit("live")
            begin = time.monotonic()
            await subject.runner.stop()
            assert (time.monotonic() - begin > process.EXIT_TIMEOUT_S) is stubborn
            assert handle.signals == ["terminate", "kill"]
            assert handle.pid is None
            assert subject.adopted == []
            (output,) = live.take()
            assert output.error == SHUTTING_DOWN
            await asyncio.sleep(0.2)
            assert subject.runner.launches == 1

    run(test())


def test_a_launch_that_fails_is_tried_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            first = await subject.ready()
            working = subject.launcher.start

            async def refuse(spec: LaunchSpec) -> FakeHandle:
                raise FileNotFoundError("no such command")

            subject.launcher.start = refuse  # type: ignore[method-assign]
            first.exit(1)
            await until(lambda: subject.runner.launches == 3)
            assert subject.failure() == "it could not be started: no such command"
            subject.launcher.start = working  # type: ignore[method-assign]
            await subject.ready(2)

    run(test())


def is_gone(subject: Subject, ended: list[RunnerProcess]) -> bool:
    return ended == [subject.runner]


def test_one_that_is_not_needed_drains_and_ends_for_good(tmp_path: Path, settled: None) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            handle = await subject.ready()
            generation = subject.submit("one")
            ended: list[RunnerProcess] = []
            subject.runner.retire(ended.append)
            assert subject.runner.phase is Phase.DRAINING
            assert subject.runner.state().retiring
            await asyncio.sleep(0.5)
            assert handle.signals == []
            subject.peer.send(Outputs([StepOutput("one", [1], "stop")]))
            await until(lambda: is_gone(subject, ended))
            assert [output.error for output in generation.take()] == [None]
            assert handle.signals[0] == "terminate"
            await asyncio.sleep(0.2)
            assert subject.runner.launches == 1

    run(test())


def test_what_other_processes_had_sent_is_waited_for(tmp_path: Path, settled: None) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            await subject.ready()
            ended: list[RunnerProcess] = []
            subject.runner.retire(ended.append)
            subject.peer.send(Stats(EngineStats(running=1)))
            await asyncio.sleep(0.5)
            assert not ended
            subject.peer.send(Stats(EngineStats()))
            await until(lambda: is_gone(subject, ended))

    run(test())


def test_one_that_is_needed_again_goes_on(tmp_path: Path, settled: None) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            handle = await subject.ready()
            assert not subject.runner.revive()
            ended: list[RunnerProcess] = []
            subject.runner.retire(ended.append)
            assert subject.runner.revive()
            assert (subject.runner.phase, subject.runner.retiring) == (Phase.READY, False)
            await asyncio.sleep(0.5)
            assert (ended, handle.signals) == ([], [])
            subject.runner.retire(ended.append)
            await until(lambda: is_gone(subject, ended))
            assert not subject.runner.revive()

    run(test())


@pytest.mark.parametrize("fails", [True, False])
def test_one_that_does_not_serve_is_ended_at_once(tmp_path: Path, settled: None, fails: bool) -> None:
    async def test() -> None:
        async with started(tmp_path) as subject:
            await until(lambda: subject.launcher.handles and subject.peer.accepted)
            if fails:
                subject.peer.send(Failed("no memory", final=True))
                await until(lambda: subject.runner.phase is Phase.GIVEN_UP)
            ended: list[RunnerProcess] = []
            subject.runner.retire(ended.append)
            await until(lambda: is_gone(subject, ended))
            assert not subject.runner.revive()

    run(test())
