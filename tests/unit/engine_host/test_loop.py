"""A runner's loop in a thread, with the synthetic engine and frontends that misbehave."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.unit.engine_host.connecting import connect
from trtllm_openai.config import SyntheticSettings
from trtllm_openai.engine_host.frontends import Frontends
from trtllm_openai.engine_host.loop import RunnerLoop
from trtllm_openai.engine_host.messages import (
    Abort,
    Failed,
    FromRunner,
    Held,
    Loading,
    NotDecoded,
    Outputs,
    Prefixes,
    Ready,
    Stats,
    Submit,
    decode_from_runner,
    encode,
)
from trtllm_openai.engines import synthetic
from trtllm_openai.generation import EngineStats, GenerationRequest, SamplingParams, StepOutput
from trtllm_openai.processes.framing import FramedSocket
from trtllm_openai.processes.undecodable import total

PLACES = 256
ENDS: list[FramedSocket] = []
"""The workers' ends of one test."""


class Client:
    """A frontend's end of the socket."""

    def __init__(self, path: str) -> None:
        self.end = connect(path)
        ENDS.append(self.end)
        self.heard: list[FromRunner] = []
        self.until(lambda: any(isinstance(message, Ready) for message in self.heard))

    def submit(self, name: str, tokens: int) -> None:
        self.end.send(encode(Submit([GenerationRequest(name, [1, 2, 3], SamplingParams(tokens))])))

    def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "it did not come true in time"
            self.end.flush()
            self.heard += map(decode_from_runner, self.end.receive())
            time.sleep(0.002)

    def outputs(self, name: str) -> list[StepOutput]:
        return [
            output
            for message in self.heard
            if isinstance(message, Outputs)
            for output in message.outputs
            if output.request_id == name
        ]

    def tokens(self, name: str) -> int:
        return sum(len(output.token_ids) for output in self.outputs(name))

    def begun(self) -> list[str]:
        """The sequences in the order of their first output."""
        outputs = [
            output for message in self.heard if isinstance(message, Outputs) for output in message.outputs
        ]
        return list(dict.fromkeys(output.request_id for output in outputs))

    @property
    def held(self) -> list[Held]:
        return [one for message in self.heard if isinstance(message, Prefixes) for one in message.held]

    @property
    def stats(self) -> EngineStats:
        """As the runner said last."""
        stats = [message.stats for message in self.heard if isinstance(message, Stats)]
        return stats[-1] if stats else EngineStats()

    @property
    def running(self) -> int:
        return self.stats.running


class Fragile(synthetic.SyntheticEngine):
    """Cannot take a request for 13 tokens; of the request "half a pair" it says what no message can hold."""

    def submit(self, request: GenerationRequest) -> None:
        if request.sampling.max_tokens == 13:
            raise IndexError("thirteen")
        super().submit(request)

    def step(self, timeout: float) -> list[StepOutput]:
        outputs = super().step(timeout)
        for output in outputs:
            if output.request_id == "half a pair" and output.token_ids:
                output.error = "\ud800"
        return outputs


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    address = f"unix:{tmp_path}/runner.sock"
    owner, owned = os.pipe()
    frontends = Frontends(address, owner)
    loop = RunnerLoop(frontends)

    def run() -> None:
        loop.progress(0.5, "half of it")
        settings = SyntheticSettings(ttft=0.0, itl=0.001, max_batch_size=PLACES)
        loop.run(Fragile(settings, 100, (2,)))
        frontends.close(1.0)

    thread = threading.Thread(target=run)
    thread.start()
    yield address
    while ENDS:
        ENDS.pop().close()
    os.close(owned)  # the owner is gone
    thread.join(10)
    assert not thread.is_alive()
    os.close(owner)


def test_a_new_connection_is_told_the_state(path: str) -> None:
    for _ in range(2):
        heard = Client(path).heard
        assert isinstance(heard[0], Loading | Ready)
        assert isinstance(heard[-1], Ready | Stats)


def test_each_connection_gets_its_own_deltas(path: str) -> None:
    first, second = Client(path), Client(path)
    first.submit("a", 20)
    second.submit("b", 30)
    first.until(lambda: first.tokens("a") == 20)
    second.until(lambda: second.tokens("b") == 30)
    assert first.tokens("b") == second.tokens("a") == 0


def test_frontends_hear_what_others_sent_to_the_runner(path: str) -> None:
    first, second = Client(path), Client(path)
    held = [Held(0, [5, -6]), Held(-1, [7])]
    first.end.send(encode(Submit([GenerationRequest("a", [1], SamplingParams(2))], held)))
    second.until(lambda: second.held == held)
    later = Client(path)
    later.until(lambda: later.held == held)
    assert first.held == []


def test_a_frontend_that_does_not_read_holds_nobody_up(path: str) -> None:
    deaf, other = Client(path), Client(path)
    for number in range(200):
        deaf.submit(f"deaf-{number}", 200)
    other.submit("b", 300)
    other.until(lambda: other.tokens("b") == 300)
    other.until(lambda: other.running == 0)
    deaf.until(lambda: all(deaf.tokens(f"deaf-{number}") == 200 for number in range(200)))


def test_the_sequences_of_a_frontend_that_is_gone_end(path: str) -> None:
    gone, stays = Client(path), Client(path)
    for number in range(3):
        gone.submit(f"a{number}", 8000)
    stays.submit("b", 8000)
    stays.until(lambda: stays.running == 4)
    gone.end.close()
    stays.until(lambda: stays.running == 1)
    stays.end.send(encode(Abort(["b"])))
    stays.until(lambda: stays.running == 0)


def test_what_is_no_message_is_told_and_counted(path: str, caplog: pytest.LogCaptureFixture) -> None:
    client, other = Client(path), Client(path)
    before = total()
    client.end.send(b"\xc1 rubbish")
    client.submit("a", 5)
    client.until(lambda: client.tokens("a") == 5)
    assert "a message of 9 bytes from an HTTP process could not be decoded" in caplog.text
    assert NotDecoded() in client.heard
    client.until(lambda: client.stats.undecodable_messages == before + 1)
    other.until(lambda: other.stats.undecodable_messages == before + 1)
    assert NotDecoded() not in other.heard


UNDECODABLE = {
    "a type": ["submit", [{"request_id": "bad", "prompt_token_ids": ["no"], "sampling": {}}]],
    "no sampling": ["submit", [{"request_id": "bad", "prompt_token_ids": [1]}]],
    "one of several": [
        "submit",
        [
            {"request_id": "good", "prompt_token_ids": [1], "sampling": {"max_tokens": 2}},
            {"request_id": "bad", "prompt_token_ids": [1], "sampling": {"max_tokens": "two"}},
        ],
    ],
}


@pytest.mark.parametrize("message", UNDECODABLE.values(), ids=UNDECODABLE)
def test_a_request_that_cannot_be_decoded_fails_at_once_and_alone(path: str, message: list[object]) -> None:
    client = Client(path)
    client.submit("running", 8000)
    client.until(lambda: client.tokens("running") > 0)
    client.end.send(msgspec.msgpack.encode(message))
    client.until(lambda: bool(client.outputs("bad")))
    assert [(one.finish_reason, one.error) for one in client.outputs("bad")] == [
        ("error", "the engine failed on this request")
    ]
    assert client.tokens("good") == 0
    seen = client.tokens("running")
    client.until(lambda: client.tokens("running") > seen)


def test_what_an_abort_names_is_aborted_if_the_rest_cannot_be_decoded(path: str) -> None:
    client = Client(path)
    client.submit("a", 8000)
    client.until(lambda: client.running == 1)
    client.end.send(msgspec.msgpack.encode(["abort", [7, "a"]]))
    client.until(lambda: client.running == 0)


def test_an_output_that_cannot_be_encoded_ends_its_own_sequence(path: str) -> None:
    client = Client(path)
    client.end.send(encode(Submit([GenerationRequest("half a pair", [17, 2], SamplingParams(8000))])))
    client.submit("good", 50)
    client.until(lambda: client.tokens("good") == 50)
    client.until(lambda: client.running == 0)
    last = next(one for one in client.outputs("half a pair") if one.finish_reason)
    assert (last.finish_reason, last.error) == ("error", "the engine failed on this request")


def test_a_request_that_cannot_be_submitted_ends_alone(path: str) -> None:
    client = Client(path)
    client.submit("bad", 13)
    client.submit("good", 5)
    client.until(lambda: client.tokens("good") == 5)
    (refusal,) = client.outputs("bad")
    assert (refusal.finish_reason, refusal.error) == ("error", "the engine failed on this request")


def of_key(key: str, number: int, tokens: int = 20, prompt: int = 3) -> list[GenerationRequest]:
    return [
        GenerationRequest(f"{key} {one}", [1] * prompt, SamplingParams(tokens), key=key)
        for one in range(number)
    ]


def test_one_keys_flood_is_not_in_front_of_another_key(path: str) -> None:
    client = Client(path)
    client.end.send(encode(Submit(of_key("flood", 600) + of_key("polite", 1))))
    client.until(lambda: client.tokens("polite 0") == 20)
    client.until(lambda: all(client.tokens(f"flood {one}") == 20 for one in range(600)))
    begun = client.begun()
    assert begun.index("polite 0") < PLACES, "it began with the first ones"
    assert begun[-1] == "flood 599"


class Slow(synthetic.SyntheticEngine):
    """Its step lasts until a request that goes first has its token."""

    ending = False

    def interrupt_with(self, look: Callable[[], None]) -> None:
        self.look = look

    def step_first(self) -> list[StepOutput]:
        first = [one for one in self._waiting if one.request.below_share]
        self.looked += [one.request.request_id for one in first]
        return super().step(0.0) if first else []

    def step(self, timeout: float) -> list[StepOutput]:
        self.looked: list[str] = []
        while len(self._running) >= 8 and not self.looked and not self.ending:
            self.look()
        return super().step(timeout)


def test_a_request_of_a_key_below_its_share_is_begun_in_the_midst_of_a_step(tmp_path: Path) -> None:
    address, (owner, owned) = f"unix:{tmp_path}/runner.sock", os.pipe()
    frontends = Frontends(address, owner)
    engine = Slow(SyntheticSettings(ttft=0.0, itl=0.0, max_batch_size=PLACES), 100, (2,))
    thread = threading.Thread(target=RunnerLoop(frontends).run, args=[engine])
    thread.start()
    client = Client(address)
    client.end.send(encode(Submit(of_key("polite", 1, tokens=1))))  # several keys are in use
    client.until(lambda: client.tokens("polite 0") == 1)
    client.end.send(encode(Submit(of_key("flood", 8, tokens=8000))))
    client.until(lambda: client.tokens("flood 7") >= 1)
    before = client.tokens("flood 0")
    client.end.send(encode(Submit([GenerationRequest("late", [1], SamplingParams(1), key="polite")])))
    client.until(lambda: client.tokens("late") == 1, timeout_s=10)
    assert client.tokens("flood 0") <= before + 2, "its step had not ended"
    engine.ending = True
    ENDS.pop().close()
    os.close(owned)
    thread.join(10)
    assert not thread.is_alive()
    frontends.close(1.0)
    os.close(owner)


def test_requests_in_the_fair_queue_are_counted_and_can_be_aborted(path: str) -> None:
    client = Client(path)
    client.end.send(encode(Submit(of_key("a", PLACES + 10, tokens=8000))))
    client.until(lambda: client.running == PLACES)
    waiting = [message.stats.waiting for message in client.heard if isinstance(message, Stats)]
    assert waiting[-1] == 10
    client.end.send(encode(Abort([f"a {PLACES + 3}", *(f"a {one}" for one in range(PLACES))])))
    others = [f"a {PLACES + one}" for one in range(10) if one != 3]
    client.until(lambda: all(map(client.tokens, others)))
    client.end.send(encode(Abort(others)))
    client.until(lambda: client.running == 0)
    assert client.tokens(f"a {PLACES + 3}") == 0


def test_what_a_lost_frontend_left_in_the_fair_queue_is_gone(path: str) -> None:
    gone, stays = Client(path), Client(path)
    gone.end.send(encode(Submit(of_key("a", 2 * PLACES, tokens=8000))))
    stays.until(lambda: stays.running == PLACES)
    gone.end.close()
    stays.end.send(encode(Submit(of_key("b", 1))))
    stays.until(lambda: stays.tokens("b 0") == 20)
    stays.until(lambda: stays.running == 0)
    stats = [message.stats for message in stays.heard if isinstance(message, Stats)]
    assert stats[-1].waiting == 0


def test_what_the_engine_refuses_is_told_when_its_turn_comes(path: str) -> None:
    client = Client(path)
    client.end.send(encode(Submit(of_key("a", 1, prompt=9000) + of_key("b", 1))))
    client.until(lambda: client.tokens("b 0") == 20)
    (refused,) = client.outputs("a 0")
    assert (refused.finish_reason, refused.error_code) == ("error", "context_length_exceeded")


def test_what_comes_after_the_engine_failed_is_left_to_whoever_sent_it(tmp_path: Path) -> None:
    """No answer: a sequence is begun again elsewhere only if nothing was said of it."""

    class Fails(synthetic.SyntheticEngine):
        def step(self, timeout: float) -> list[StepOutput]:
            client.submit("late", 3)
            raise IndexError("a fault of the engine")

    address = f"unix:{tmp_path}/runner.sock"
    owner, owned = os.pipe()
    frontends = Frontends(address, owner)
    loop = RunnerLoop(frontends)
    ended: list[str] = []

    def run() -> None:
        try:
            loop.run(Fails(SyntheticSettings(), 100, (2,)))
        except IndexError as error:
            ended.append(str(error))
            loop.fail(str(error), final=False)
        frontends.close(1.0)

    thread = threading.Thread(target=run)
    thread.start()
    client = Client(address)
    client.submit("early", 3)
    client.until(lambda: any(isinstance(message, Failed) for message in client.heard))
    ENDS.pop().close()
    thread.join(10)
    os.close(owned)
    os.close(owner)
    assert ended == ["a fault of the engine"]
    assert client.outputs("early") == client.outputs("late") == []


def test_how_long_the_oldest_waits_is_told_without_those_that_run(path: str) -> None:
    client = Client(path)

    def oldest() -> float:
        return [message.oldest_s for message in client.heard if isinstance(message, Stats)][-1]

    client.end.send(encode(Submit(of_key("a", PLACES, tokens=8000))))
    client.until(lambda: client.running == PLACES)
    begun = time.monotonic()
    late = [GenerationRequest(name, [1], SamplingParams(8000)) for name in ("b", "c")]
    client.end.send(encode(Submit(late)))
    client.until(lambda: client.stats.waiting == 2)
    client.until(lambda: oldest() > 0.2)
    assert oldest() <= time.monotonic() - begun  # and not since the first ones came
    client.end.send(encode(Abort(["b", "c"])))
    client.until(lambda: client.stats.waiting == 0)
    assert oldest() == 0.0
