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
    [messages.Submit([REQUEST]), messages.Abort(["1", "2"])],
    ids=lambda m: type(m).__name__,
)
def test_to_runner(message: messages.ToRunner) -> None:
    assert messages.decode_to_runner(messages.encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        messages.Loading(0.5, "weights"),
        messages.Ready(INFO),
        messages.Outputs([OUTPUT]),
        messages.Stats(EngineStats(running=3)),
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
