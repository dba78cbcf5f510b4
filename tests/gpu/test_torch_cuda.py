"""The torch engine on CUDA."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.unit.engines.torch.conftest import CONFIGS, VOCAB, make_engine, request, run

LENGTHS = (1, 5, 16, 64, 130, 200)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in LENGTHS]


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_equals_generate(checkpoint: Callable[[str], Path], name: str) -> None:
    directory = checkpoint(name)
    engine = make_engine(directory, device="cuda", max_num_tokens=64, max_batch_size=8)
    ours = run(engine, *(request(str(i), ids, max_tokens=40) for i, ids in enumerate(prompts())))
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).cuda()
    for i, prompt in enumerate(prompts()):
        ids = torch.tensor([prompt], device="cuda")
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40, pad_token_id=0
        )
        assert ours[str(i)].token_ids == out[0, len(prompt) :].tolist(), len(prompt)


def test_every_parameter_in_one_batch_and_a_tight_cache(checkpoint: Callable[[str], Path]) -> None:
    engine = make_engine(
        checkpoint("llama"), device="cuda", dtype="bfloat16", max_seq_len=256, kv_cache_tokens=24 * 16
    )
    settings: list[dict[str, Any]] = [
        {"temperature": 1.0, "seed": 1, "top_p": 0.9, "logprobs": 20},
        {"temperature": 1.0, "seed": 2, "top_k": 5, "min_p": 0.1},
        {"repetition_penalty": 1.5, "frequency_penalty": 0.5, "presence_penalty": 0.5},
        {"logit_bias": {7: 100.0}},
        {"temperature": 2.0, "min_tokens": 30, "stop_token_ids": (5,)},
        {"temperature": 1.0, "seed": 1, "top_p": 0.9, "logprobs": 0},
    ]
    outputs = run(
        engine,
        *(
            request(str(i), prompt, max_tokens=50, ignore_eos=True, **one)
            for i, (prompt, one) in enumerate(zip(prompts(), settings, strict=True))
        ),
    )
    assert outputs["3"].token_ids == [7] * 50
    assert len(outputs["4"].token_ids) > 30
    logprobs = outputs["0"].logprobs
    assert logprobs is not None
    assert all(len(one.top) == 20 and one.logprob <= 0 for one in logprobs)
    assert engine.stats().kv_blocks_used == 0
