"""Messages that were damaged: each names what cannot go on, whatever byte was hit."""

import random

import msgspec
import pytest

from trtllm_openai.engine_host.messages import (
    Failed,
    FromRunner,
    Loading,
    Outputs,
    Ready,
    Stats,
    Submit,
    decode_from_runner,
    decode_to_runner,
    encode,
)
from trtllm_openai.engine_host.salvage import encode_outputs, from_runner, lost, submitted_ids
from trtllm_openai.generation import (
    Capabilities,
    EngineInfo,
    EngineStats,
    GenerationRequest,
    Guide,
    SamplingParams,
    StepOutput,
    TokenLogprobs,
)
from trtllm_openai.processes.undecodable import UNDECODABLE, report

INFO = EngineInfo("fake", "none", "none", "cpu", 100, (2,), 64, 4, Capabilities())
OUTPUTS = Outputs(
    [StepOutput("a", [1], logprobs=[TokenLogprobs(1, -1.0, [(1, -1.0)])]), StepOutput("b", [2])]
)
SUBMIT = Submit(
    [GenerationRequest(name, [1, 2], SamplingParams(5), guide=Guide("regex", "é")) for name in "ab"]
)
FROM_RUNNER: list[FromRunner] = [
    Loading(0.5, "weights"),
    Ready(INFO),
    OUTPUTS,
    Stats(EngineStats()),
    Failed("it failed", final=True),
]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (["outputs", [["a", [1]], ["b", ["x"]]]], Outputs([StepOutput("a", [1]), lost("b")])),
        (["outputs", [["a", [1], "unheard of"]]], Outputs([lost("a")])),
        (["outputs", [["a", [1]], [7]]], Outputs([lost("a"), lost("z")])),
        (["outputs", 7], Outputs([lost("a"), lost("z")])),
        (["from a later release"], Outputs([lost("a"), lost("z")])),
        ([], Outputs([lost("a"), lost("z")])),
        (["ready", {}], Failed("its message 'ready' could not be decoded", final=False)),
        (["failed"], Failed("its message 'failed' could not be decoded", final=False)),
        (["stats", 7], None),
        (["loading", "much"], None),
    ],
)
def test_what_a_runners_message_means(message: list[object], expected: object) -> None:
    assert from_runner(message, ["a", "z"]) == expected


def test_the_ids_of_a_submit_are_all_or_none() -> None:
    assert submitted_ids([{"request_id": "a"}, {"request_id": "b", "prompt_token_ids": 7}]) == ["a", "b"]
    assert submitted_ids([{"request_id": "a"}, {"request_id": 7}]) == []
    assert submitted_ids([["a"]]) == []


def test_only_what_cannot_be_encoded_is_replaced() -> None:
    outputs = [StepOutput("a", [1]), StepOutput("b", [1 << 70]), StepOutput("c", [], error="\ud800")]
    body, replaced = encode_outputs(outputs)
    assert replaced == ["b", "c"]
    assert decode_from_runner(body) == Outputs([outputs[0], lost("b"), lost("c")])


def test_any_damaged_byte_leaves_something_that_can_be_acted_on() -> None:
    rng = random.Random(1)
    damaged = 0
    for message in (*FROM_RUNNER, SUBMIT):
        decode = decode_to_runner if message is SUBMIT else decode_from_runner
        body = encode(message)
        for position in range(len(body)):
            changed = bytearray(body)
            changed[position] = rng.randrange(256)
            for one in (bytes(changed), body[:position]):
                try:
                    decode(one)
                except UNDECODABLE as error:
                    damaged += 1
                    plain = report("the test", one, error)
                    assert plain == [] or msgspec.msgpack.encode(plain)
                    if message is SUBMIT:
                        assert all(isinstance(name, str) for name in submitted_ids(plain[1:]))
                    elif isinstance(found := from_runner(plain, ["a"]), Outputs):
                        assert encode(found)
    assert damaged > 500
