"""A run as frames: usage options, merged deltas, and the end of a stream however it ends."""

import json
from typing import Any

import pytest

from trtllm_openai.api.chat import ChatChunks
from trtllm_openai.api.choice import Choice
from trtllm_openai.api.flow import FlowControl
from trtllm_openai.api.run import RequestRun
from trtllm_openai.api.stream import ChunkFormatter, RunStream, UsageOptions, merged
from trtllm_openai.api.token_fields import TokenFields
from trtllm_openai.errors import InvalidRequest, ShuttingDown
from trtllm_openai.generation import GenerationRequest, SamplingParams, TokenLogprobs
from trtllm_openai.protocol.completions import CompletionRequest
from trtllm_openai.text.choice import ChoiceDecoder, TextDelta
from trtllm_openai.text.events import Content
from trtllm_openai.text.tokenizer import Tokenizer


def options(**fields: Any) -> UsageOptions:
    return UsageOptions.of(CompletionRequest.model_validate({"prompt": "x", **fields}))


def test_usage_options() -> None:
    assert options(stream=True) == UsageOptions()
    assert options(stream=True, stream_options={"include_usage": True}) == UsageOptions(at_end=True)
    assert options(stream=True, stream_options={"continuous_usage_stats": True}) == UsageOptions(always=True)
    with pytest.raises(InvalidRequest) as caught:
        options(stream_options={})
    assert caught.value.param == "stream_options"


def choice(tokenizer: Tokenizer, index: int) -> Choice:
    request = GenerationRequest(str(index), [1], SamplingParams(max_tokens=9))
    return Choice(index, request, ChoiceDecoder(tokenizer))


def test_deltas_of_one_choice_are_merged(demo_tokenizer: Tokenizer) -> None:
    a, b = choice(demo_tokenizer, 0), choice(demo_tokenizer, 1)
    found = merged(
        [
            (a, TextDelta("x", events=[Content("x")])),
            (b, TextDelta("1")),
            (a, TextDelta("y", events=[Content("y")], finish_reason="stop", stop_reason="S")),
        ]
    )
    assert [(one.index, delta.text) for one, delta in found] == [(0, "xy"), (1, "1")]
    assert found[0][1].events == [Content("xy")]
    assert (found[0][1].finish_reason, found[0][1].stop_reason) == ("stop", "S")


def test_merged_deltas_keep_their_token_ids(demo_tokenizer: Tokenizer) -> None:
    one = choice(demo_tokenizer, 0)
    deltas = [(one, TextDelta(text, token_ids=[token])) for text, token in (("x", 5), ("", 6), ("y", 7))]
    ((_, delta),) = merged(deltas)
    assert (delta.text, delta.token_ids) == ("xy", [5, 6, 7])


def test_log_probabilities_keep_their_deltas_apart(demo_tokenizer: Tokenizer) -> None:
    one = choice(demo_tokenizer, 0)
    logprobs = [TokenLogprobs(5, -1.0, [])]
    deltas = [(one, TextDelta("x", logprobs=logprobs)), (one, TextDelta("y", logprobs=logprobs))]
    assert [delta.text for _, delta in merged(deltas)] == ["x", "y"]


class Writer:
    def __init__(self) -> None:
        self.pushed: list[bytes] = []
        self.tail = b""
        self.begun = True
        self.refusal: Exception | None = None

    def refuse(self, error: Exception) -> None:
        self.refusal = error

    def push(self, frames: bytes) -> None:
        self.pushed.append(frames)

    def finish(self, tail: bytes) -> None:
        self.tail = tail


class FakeRun:
    """What a formatter reads of a run."""

    def __init__(self, choices: list[Choice]) -> None:
        self.choices = choices
        self.accounting: Any = None


def formatter(tokenizer: Tokenizer, choices: list[Choice]) -> tuple[ChunkFormatter, Writer]:
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    form = ChatChunks(head, len(choices), TokenFields(tokenizer), include_usage=False)
    writer = Writer()
    run: Any = FakeRun(choices)
    return ChunkFormatter(writer, run, form, UsageOptions()), writer  # type: ignore[arg-type]


def events(frames: bytes) -> list[Any]:
    return [json.loads(part) for part in frames.decode().replace("data: ", "").split("\n\n")[:-1]]


def test_the_last_text_leaves_with_the_end(demo_tokenizer: Tokenizer) -> None:
    one = choice(demo_tokenizer, 0)
    made, writer = formatter(demo_tokenizer, [one])
    made.consume([(one, TextDelta("a"))], False)
    made.consume([(one, TextDelta(""))], False)
    assert len(writer.pushed) == 1, "nothing is sent for no text"
    made.consume([(one, TextDelta("b", finish_reason="stop"))], True)
    assert len(writer.pushed) == 1
    made.ended(None)
    assert writer.tail.endswith(b"data: [DONE]\n\n")
    text, reason = events(writer.tail.removesuffix(b"data: [DONE]\n\n"))
    assert text["choices"][0]["delta"] == {"content": "b"}
    assert reason["choices"][0]["finish_reason"] == "stop"


def test_an_error_is_the_last_event(demo_tokenizer: Tokenizer) -> None:
    made, writer = formatter(demo_tokenizer, [choice(demo_tokenizer, 0)])
    made.ended(InvalidRequest("no", "stop"))
    (event,) = events(writer.tail)
    assert event["error"]["param"] == "stop"


def test_an_error_before_the_first_event_is_no_event(demo_tokenizer: Tokenizer) -> None:
    made, writer = formatter(demo_tokenizer, [choice(demo_tokenizer, 0)])
    writer.begun = False
    error = InvalidRequest("no", "stop")
    made.ended(error)
    assert (writer.refusal, writer.tail) == (error, b"")


def test_shutdown_cuts_every_open_choice(demo_tokenizer: Tokenizer) -> None:
    choices = [choice(demo_tokenizer, index) for index in range(2)]
    choices[0].decoder.finished = True
    made, writer = formatter(demo_tokenizer, choices)
    made.ended(ShuttingDown())
    cut, error = events(writer.tail)
    assert (cut["choices"][0]["index"], cut["choices"][0]["finish_reason"]) == (1, "abort")
    assert error["error"]["code"] == "service_unavailable"


def test_streams_are_counted_while_they_are_open() -> None:
    class Gauge:
        value = 0

        def inc(self) -> None:
            self.value += 1

        def dec(self) -> None:
            self.value -= 1

    class Started:
        def __init__(self) -> None:
            self.flow = FlowControl(lambda: None)
            self.gauge = Gauge()
            self.accounting = self
            self.metrics = self
            self.streams = self.gauge
            self.closed = 0

        def start(self, consumer: object) -> None:
            assert consumer == "consumer"

        def close(self) -> None:
            self.closed += 1

    def stream(run: Any) -> RunStream:
        typed: RequestRun = run
        return RunStream(typed, lambda _: "consumer")  # type: ignore[arg-type,return-value]

    run = Started()
    source = stream(run)
    source.start(Writer())  # type: ignore[arg-type]
    assert run.gauge.value == 1
    source.close()
    assert (run.gauge.value, run.closed) == (0, 1)
    stream(run).close()
    assert (run.gauge.value, run.closed) == (0, 2), "one that never started was not counted"
