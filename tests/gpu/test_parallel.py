"""Tensor parallelism over NCCL: two GPUs give the tokens of one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.unit.engines.torch.conftest import VOCAB, make_engine, request, run

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two GPUs")


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_two_gpus_give_the_tokens_of_one(checkpoint: Callable[[str], Path], name: str) -> None:
    generator = torch.Generator().manual_seed(4)
    prompts = [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in (3, 40, 150)]
    outputs = []
    for size in (1, 2):
        engine = make_engine(
            checkpoint(name), device="cuda", tensor_parallel_size=size, max_num_tokens=64, max_batch_size=4
        )
        try:
            asked = [request(str(i), ids, max_tokens=24, logprobs=1) for i, ids in enumerate(prompts)]
            outputs.append(run(engine, *asked))
        finally:
            engine.shutdown(10)
    one, two = outputs
    for i in one:
        assert two[i].token_ids == one[i].token_ids
        for mine, other in zip(two[i].logprobs or (), one[i].logprobs or (), strict=True):
            assert mine.logprob == pytest.approx(other.logprob, abs=1e-3)
