"""Every message survives the trip, and rubbish is refused."""

import msgspec
import pytest

from trtllm_openai.engine_host import messages
from trtllm_openai.generation import (
    Capabilities,
    EngineInfo,
    EngineStats,
    GenerationRequest,
    SamplingParams,
    StepOutput,
    TokenLogprobs,
)

INFO = EngineInfo(
    "torch", "LlamaForCausalLM", "bfloat16", "cpu", 100, (2, 3), 64, 4, Capabilities(max_logprobs=20)
)
REQUEST = GenerationRequest(
    "1",
    [1, 2, 3],
    SamplingParams(5, temperature=0.0, logit_bias={7: -100.0}, stop_token_ids=(9,), logprobs=2),
)
OUTPUT = StepOutput("1", [7], "stop", 9, [TokenLogprobs(7, -0.5, [(7, -0.5), (8, -1.5)])], 16)


@pytest.mark.parametrize(
    "message",
    [messages.Submit([REQUEST], [messages.Held(3, [-(1 << 63), 7])]), messages.Abort(["1", "2"])],
    ids=lambda m: type(m).__name__,
)
def test_to_runner(message: messages.ToRunner) -> None:
    assert messages.decode_to_runner(messages.encode(message)) == message


def test_a_prompt_that_several_requests_share_is_sent_once() -> None:
    first, second, equal = list(range(300)), [7, 8], [7, 8]
    requests = [
        msgspec.structs.replace(REQUEST, request_id=str(index), prompt_token_ids=prompt)
        for index, prompt in enumerate([first, first, second, second, equal, first])
    ]
    sent = messages.encode(messages.Submit.of(requests))
    message = messages.decode_to_runner(sent)
    assert isinstance(message, messages.Submit)
    assert [len(request.prompt_token_ids) for request in message.requests] == [300, 0, 2, 0, 2, 300]
    received = message.with_prompts()
    assert received == requests
    assert received[1].prompt_token_ids is received[0].prompt_token_ids
    assert messages.Submit.of([]).with_prompts() == []


@pytest.mark.parametrize(
    "message",
    [
        messages.Loading(0.5, "weights"),
        messages.Ready(INFO),
        messages.Outputs([OUTPUT]),
        messages.Stats(EngineStats(running=3)),
        messages.Prefixes([messages.Held(-1, [5])]),
        messages.Failed("no", final=True),
    ],
    ids=lambda m: type(m).__name__,
)
def test_from_runner(message: messages.FromRunner) -> None:
    assert messages.decode_from_runner(messages.encode(message)) == message


@pytest.mark.parametrize(
    "frame", [b"", b"\xc1", b"\x91\xa5abort\x00", messages.encode(messages.Loading(0, ""))]
)
def test_rubbish_is_refused(frame: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        messages.decode_to_runner(frame)
