"""What the fake executor does where TensorRT-LLM surprises: each line of it is a fact from its sources.

The server's own checks would hide some of this, so the bindings are driven here without it.
"""

import asyncio
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine_dir import make_engine_dir
from tests.unit.engines.tensorrt_llm.conftest import FAKES

Make = Callable[..., tuple[Any, Any]]
PROMPT = [10, 11, 12, 13]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """`bindings, executor = fake(max_batch_size=1, **behaviour)`."""
    monkeypatch.syspath_prepend(FAKES)

    def make(max_batch_size: int = 8, **behaviour: Any) -> tuple[Any, Any]:
        monkeypatch.setenv("FAKE_TRTLLM", json.dumps(behaviour))
        bindings = importlib.import_module("tensorrt_llm.bindings.executor")
        directory = make_engine_dir(tmp_path / "model") / "engine"
        config = bindings.ExecutorConfig(max_batch_size=max_batch_size)
        return bindings, bindings.Executor(str(directory), bindings.ModelType.DECODER_ONLY, config)

    yield make
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt_llm"]:
        del sys.modules[name]


def request(bindings: Any, prompt: list[int] = PROMPT, max_tokens: int = 20, **fields: Any) -> Any:
    sampling = bindings.SamplingConfig(beam_width=1, top_k=1)
    fields = {"streaming": True, "end_id": 2, "sampling_config": sampling, **fields}
    return bindings.Request(input_token_ids=prompt, max_tokens=max_tokens, **fields)


def finish(executor: Any, number: int, patience: float = 5.0) -> tuple[list[int], Any]:
    """The request's tokens and its finish reason."""
    tokens: list[int] = []
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        for response in executor.await_responses(timeout=timedelta(milliseconds=20)):
            if response.request_id == number:
                tokens += response.result.output_token_ids[0]
                if response.result.is_final:
                    return tokens, response.result.finish_reasons[0]
    raise AssertionError("no final response in time")


def test_more_tokens_than_max_seq_len_leaves_are_clamped(fake: Make) -> None:
    bindings, executor = fake(itl=0.0, burst=64)
    prompt = [5] * 1000
    tokens, reason = finish(executor, executor.enqueue_request(request(bindings, prompt, 500, end_id=-1)))
    assert (len(tokens), reason) == (24, bindings.FinishReason.LENGTH)


def test_the_end_token_is_left_out_and_a_stop_word_is_not(fake: Make) -> None:
    bindings, executor = fake()
    ended = finish(executor, executor.enqueue_request(request(bindings)))
    assert ended == (PROMPT, bindings.FinishReason.END_ID)
    stopped = finish(executor, executor.enqueue_request(request(bindings, stop_words=[[12]])))
    assert stopped == ([10, 11, 12], bindings.FinishReason.STOP_WORDS)


@pytest.mark.parametrize("how", ["cancelled", "out of time"])
def test_a_queued_request_is_looked_at_once_it_is_active(fake: Make, how: str) -> None:
    bindings, executor = fake(max_batch_size=1, itl=0.02)
    first = executor.enqueue_request(request(bindings, max_tokens=10, end_id=-1))
    allotted = timedelta(milliseconds=60) if how == "out of time" else None
    second = executor.enqueue_request(request(bindings, max_tokens=10, end_id=-1, allotted_time_ms=allotted))
    if how == "cancelled":
        executor.cancel_request(second)
    order: list[tuple[int, Any]] = []
    deadline = time.monotonic() + 5
    tokens = 0
    while len(order) < 2:
        assert time.monotonic() < deadline
        for response in executor.await_responses(timeout=timedelta(milliseconds=20)):
            if response.request_id == second:
                tokens += len(response.result.output_token_ids[0])
            if response.result.is_final:
                order.append((response.request_id, response.result.finish_reasons[0]))
    reasons = bindings.FinishReason
    final = reasons.CANCELLED if how == "cancelled" else reasons.TIMED_OUT
    assert order == [(first, reasons.LENGTH), (second, final)]
    assert bool(tokens) == (how == "out of time"), "its time counts from when it became active"


@pytest.mark.parametrize("included", [False, True])
def test_pytorch_cuts_the_stop_token_from_the_tokens_alone(
    fake: Make, tmp_path: Path, included: bool
) -> None:
    fake()
    package = importlib.import_module("tensorrt_llm")
    (tmp_path / "config.json").write_text('{"vocab_size": 100}')
    llm = package.LLM(model=str(tmp_path), skip_tokenizer_init=True)
    sampling = package.SamplingParams(
        end_id=2, top_k=1, logprobs=1, detokenize=False, include_stop_str_in_output=included
    )

    async def main() -> tuple[list[int], int]:
        logprobs = 0
        result = llm.generate_async(PROMPT, sampling_params=sampling, streaming=True)
        async for update in result:
            logprobs += len(update.outputs[0].logprobs_diff)
        return result.outputs[0].token_ids, logprobs

    assert asyncio.run(main()) == ([*PROMPT, 2] if included else PROMPT, 5)
