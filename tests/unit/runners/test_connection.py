"""A connection to a runner: delivery of deltas, orphans, aborts, and runners that refuse to authenticate."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from tests.unit.runners.peer import INFO, RunnerPeer
from tests.unit.runners.test_pool import run, until
from trtllm_openai.engine_host.frontends import Frontends
from trtllm_openai.engine_host.messages import Failed, Loading, NotDecoded, Outputs, Ready, Stats
from trtllm_openai.engines.base import FAILED_ON_REQUEST
from trtllm_openai.generation import EngineStats, GenerationRequest, SamplingParams, StepOutput
from trtllm_openai.runners import connection as connection_module
from trtllm_openai.runners.connection import ConnectionEvents, RunnerConnection
from trtllm_openai.runners.generation import Generation
from trtllm_openai.runners.state import Endpoint


class Recorder:
    """Owner of one connection; records its events. Adopts lost sequences if `adopts`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.statuses: list[Loading | Ready | Failed] = []
        self.closed = 0
        self.adopted: list[str] = []
        self.adopts = True
        events = ConnectionEvents(lambda _, message: self.statuses.append(message), self._closed, self._adopt)
        self.connection = RunnerConnection(endpoint, events)

    def _closed(self, connection: RunnerConnection) -> None:
        assert connection is self.connection
        self.closed += 1

    def _adopt(self, request: GenerationRequest, generation: Generation) -> bool:
        if self.adopts:
            self.adopted.append(request.request_id)
        return self.adopts

    def submit(self, *names: str) -> Generation:
        generation = Generation(names, self.connection.abort)
        requests = [GenerationRequest(name, [1, 2], SamplingParams(5)) for name in names]
        self.connection.submit(requests, generation)
        return generation


@asynccontextmanager
async def connected(directory: Path) -> AsyncIterator[tuple[RunnerPeer, Recorder]]:
    peer = RunnerPeer(directory / "runner.sock")
    await peer.listen()
    subject = Recorder(peer.endpoint)
    subject.connection.open()
    try:
        await until(lambda: peer.accepted and subject.connection.connected)
        yield peer, subject
    finally:
        subject.connection.close("the test ends", lost=False)
        await peer.close()


def test_keeps_trying_until_the_runner_listens(tmp_path: Path) -> None:
    async def test() -> None:
        peer = RunnerPeer(tmp_path / "runner.sock")
        subject = Recorder(peer.endpoint)
        subject.connection.open()
        await asyncio.sleep(3 * connection_module.CONNECT_POLL_S)
        assert not subject.connection.connected
        await peer.listen()
        await until(lambda: peer.accepted and subject.connection.connected)
        peer.send(Loading(0.5, "weights"), Ready(INFO))
        await until(lambda: len(subject.statuses) == 2)
        assert subject.statuses == [Loading(0.5, "weights"), Ready(INFO)]
        subject.connection.close("", lost=False)
        await peer.close()

    run(test())


def test_a_listener_is_called_once_per_engine_step(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (peer, subject):
            pair, single = subject.submit("a", "b"), subject.submit("c")
            calls: list[list[StepOutput]] = []
            pair.listener = lambda: calls.append(pair.take())
            step = [StepOutput("a", [1]), StepOutput("c", [2]), StepOutput("b", [3])]
            peer.send(Outputs(step))
            await until(lambda: calls and single.waiting)
            assert calls == [[step[0], step[2]]]
            assert single.take() == [step[1]]
            assert subject.connection.load == 3
            peer.send(Outputs([StepOutput("a", [4], "stop"), StepOutput("nobody's", [5])]))
            await until(lambda: len(calls) == 2)
            assert (pair.live, subject.connection.load) == ({"b"}, 2)

    run(test())


def test_only_live_sequences_are_aborted_and_their_late_outputs_dropped(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (peer, subject):
            generation = subject.submit("a", "b")
            subject.connection.abort(["a", "unknown"])
            subject.connection.abort(["a"])
            peer.send(Outputs([StepOutput("a", [1]), StepOutput("b", [2])]))
            await until(lambda: generation.waiting and peer.heard)
            assert [output.request_id for output in generation.take()] == ["b"]
            generation.close()
            await until(lambda: peer.aborted == ["a", "b"])
            assert subject.connection.load == 0

    run(test())


def test_outputs_sent_before_the_end_are_delivered_before_it_is_reported(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (peer, subject):
            generation = subject.submit("a")
            await until(lambda: peer.submitted)
            peer.send(*(Outputs([StepOutput("a", [token])]) for token in range(5000)))
            peer.send(Outputs([StepOutput("a", [7], "stop")]), Failed("the engine failed", final=False))
            peer.drop()
            await until(lambda: subject.closed)
            assert len(generation.take()) == 5001
            assert subject.statuses == [Failed("the engine failed", final=False)]
            assert subject.connection.ended.is_set()
            assert (subject.closed, subject.connection.load) == (1, 0)

    run(test())


def test_an_output_that_cannot_be_decoded_ends_its_own_sequence(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (peer, subject):
            bad, good = subject.submit("bad"), subject.submit("good")
            peer.send_raw(msgspec.msgpack.encode(["outputs", [["good", [1]], ["bad", "tokens"]]]))
            peer.send(Outputs([StepOutput("good", [2], "length")]))
            await until(lambda: not good.live)
            assert [one.token_ids for one in good.take()] == [[1], [2]]
            assert [(one.finish_reason, one.error) for one in bad.take()] == [("error", FAILED_ON_REQUEST)]
            await until(lambda: peer.aborted == ["bad"])
            assert (subject.connection.load, subject.closed) == (0, 0)

    run(test())


@pytest.mark.parametrize("body", [b"\xc1", b"", b"\x91\xa2\xff\xfe", msgspec.msgpack.encode(["outputs", 7])])
def test_outputs_of_which_nothing_can_be_decoded_end_every_sequence(tmp_path: Path, body: bytes) -> None:
    """Any of them may have lost tokens."""

    async def test() -> None:
        async with connected(tmp_path) as (peer, subject):
            before = [subject.submit("a"), subject.submit("b")]
            peer.send_raw(body)
            await until(lambda: not any(one.live for one in before))
            assert [one.take()[-1].error for one in before] == [FAILED_ON_REQUEST] * 2
            await until(lambda: peer.aborted == ["a", "b"])
            later = subject.submit("c")
            peer.send(Outputs([StepOutput("c", [1], "stop")]))
            await until(lambda: later.waiting)
            assert (subject.connection.load, subject.closed) == (0, 0)

    run(test())


def test_a_message_that_the_runner_could_not_decode_fails_what_has_no_token(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (peer, subject):
            begun, lost = subject.submit("begun"), subject.submit("lost")
            peer.send(Outputs([StepOutput("begun", [1])]), NotDecoded())
            await until(lambda: not lost.live)
            assert [one.error for one in lost.take()] == [FAILED_ON_REQUEST]
            await until(lambda: peer.aborted == ["lost"])
            assert begun.live == {"begun"}

    run(test())


def test_a_state_that_cannot_be_decoded_is_a_failure_and_statistics_are_left_out(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (peer, subject):
            peer.send_raw(msgspec.msgpack.encode(["stats", 7]))
            peer.send_raw(msgspec.msgpack.encode(["ready", {"engine": 7}]))
            await until(lambda: subject.statuses)
            assert subject.statuses == [Failed("its message 'ready' could not be decoded", final=False)]

    run(test())


def test_a_request_that_cannot_be_encoded_leaves_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (peer, subject):
            generation = Generation(["a"], subject.connection.abort)
            request = GenerationRequest("a", [1 << 70], SamplingParams(5))
            with pytest.raises(OverflowError):
                subject.connection.submit([request], generation)
            assert subject.connection.load == 0
            other = subject.submit("b")
            await until(lambda: peer.submitted == ["b"])
            other.close()

    run(test())


@pytest.mark.parametrize(("lost", "adopts"), [(True, True), (True, False), (False, True)])
def test_a_lost_sequence_without_tokens_may_be_adopted(tmp_path: Path, lost: bool, adopts: bool) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (peer, subject):
            subject.adopts = adopts
            started, unstarted, begun = map(subject.submit, ("started", "unstarted", "begun"))
            peer.send(Outputs([StepOutput("begun", []), StepOutput("started", [1])]))
            await until(lambda: started.waiting)
            subject.connection.close("the runner was lost", lost=lost)
            assert [output.error for output in started.take()] == [None, "the runner was lost"]
            moves = lost and adopts
            assert subject.adopted == (["unstarted", "begun"] if moves else [])
            assert len(begun.take()) == (1 if moves else 2)
            assert [output.error for output in unstarted.take()] == ([] if moves else ["the runner was lost"])
            assert not subject.connection.connected
            assert subject.connection.load == 0

    run(test())


def test_statistics_show_the_load_of_others_and_progress(tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(tmp_path) as (peer, subject):
            assert subject.connection.progressed_at == 0
            before = time.monotonic()
            subject.submit("a", "b")
            since = subject.connection.progressed_at
            assert since >= before
            peer.send(Stats(EngineStats(running=4, waiting=1, steps=0)))
            await until(lambda: subject.connection.elsewhere == 3)
            assert subject.connection.progressed_at == since  # no step was made
            peer.send(Stats(EngineStats(running=1, steps=1)))
            await until(lambda: subject.connection.stats.steps == 1)
            assert subject.connection.progressed_at > since
            assert subject.connection.elsewhere == 0

    run(test())


def test_much_that_the_runner_does_not_read_yet_arrives_later(tmp_path: Path) -> None:
    """A prompt larger than the socket's buffer does not block the event loop, and arrives whole."""

    async def test() -> None:
        async with connected(tmp_path) as (peer, subject):
            prompt = list(range(100_000, 1_100_000))
            names = ("a", "b")
            generation = Generation(names, subject.connection.abort)
            requests = [GenerationRequest(name, prompt, SamplingParams(5)) for name in names]
            subject.connection.submit(requests, generation)
            end = subject.connection._socket
            assert end is not None
            assert end.blocked  # `submit` returned while most was still to be sent
            await until(lambda: peer.submitted == ["a", "b"])
            assert not end.blocked

    run(test())


def test_a_wrong_secret_is_tried_again_and_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "REFUSED_POLL_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    owner, owned = os.pipe()

    async def poll_until_attached(frontends: Frontends, subject: Recorder, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not frontends.attached and time.monotonic() < deadline:
            list(frontends.poll())
            await asyncio.sleep(0.005)

    async def test() -> None:
        subject = Recorder(Endpoint(address, "the secret"))
        subject.connection.open()
        other = Frontends(address, owner, "another secret")
        await poll_until_attached(other, subject, 0.4)
        assert not subject.connection.connected
        assert not other.attached
        other.close(0.0)
        right = Frontends(address, owner, "the secret")
        await poll_until_attached(right, subject, 20)
        await until(lambda: subject.connection.connected)
        subject.connection.close("", lost=False)
        right.close(0.0)

    with caplog.at_level(logging.WARNING):
        run(test())
    (record,) = [record for record in caplog.records if "was not authenticated" in record.message]
    assert address in record.message
    os.close(owner)
    os.close(owned)
