"""Log-probabilities of prompts: the model's own, however the prompt is cut into chunks."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from tests.unit.engines.torch.conftest import VOCAB, make_engine
from trtllm_openai.engines.torch.engine import TorchEngine
from trtllm_openai.generation import GenerationRequest, SamplingParams, StepOutput

PROMPT = [(7 * index) % (VOCAB - 3) + 3 for index in range(70)]


def run(engine: TorchEngine, request: GenerationRequest) -> list[StepOutput]:
    engine.submit(request)
    outputs: list[StepOutput] = []
    deadline = time.monotonic() + 60
    while not outputs or outputs[-1].finish_reason is None:
        assert time.monotonic() < deadline
        outputs += [one for one in engine.step(0.05) if one.token_ids or one.finish_reason is not None]
    return outputs


@pytest.mark.parametrize("max_num_tokens", [512, 64])
def test_they_are_those_of_transformers(checkpoint: Callable[[str], Path], max_num_tokens: int) -> None:
    directory = checkpoint("llama")
    engine = make_engine(directory, max_num_tokens=max_num_tokens, max_batch_size=4, max_seq_len=128)
    sampling = SamplingParams(max_tokens=2, temperature=0, logprobs=2, prompt_logprobs=3)
    outputs = run(engine, GenerationRequest("x", PROMPT, sampling))
    found = outputs[0].prompt_logprobs
    assert found is not None
    assert outputs[1].prompt_logprobs is None
    assert found[0] is None
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.tensor([PROMPT])).logits[0].log_softmax(-1)
    assert len(found) == len(PROMPT)
    for place, value in enumerate(found[1:]):
        assert value is not None
        assert value.token_id == PROMPT[place + 1]
        assert value.logprob == pytest.approx(float(expected[place, PROMPT[place + 1]]), abs=1e-4)
        assert [token for token, _ in value.top] == expected[place].topk(3).indices.tolist()
        assert value.rank == 1 + int((expected[place] > expected[place, value.token_id]).sum())


def test_a_prompt_alone(checkpoint: Callable[[str], Path]) -> None:
    engine = make_engine(checkpoint("llama"), max_batch_size=4, max_seq_len=len(PROMPT))
    sampling = SamplingParams(max_tokens=0, prompt_logprobs=0)
    (output,) = run(engine, GenerationRequest("x", PROMPT, sampling))
    assert (output.token_ids, output.finish_reason) == ([], "length")
    assert output.prompt_logprobs is not None
    assert [value.top for value in output.prompt_logprobs if value is not None] == [[]] * (len(PROMPT) - 1)
    assert engine.stats().kv_blocks_used == 0
