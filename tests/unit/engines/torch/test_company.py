"""An answer does not depend on what else is in the batch: compared bit by bit, log-probabilities included."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engines.torch.conftest import VOCAB, make_engine, request, run
from tests.unit.engines.torch.test_linear import vnni
from trtllm_openai.generation import StepOutput

PROMPTS = [list(range(3, 3 + length)) for length in (1, 7, 30, 50, 90, 180)]
SAMPLING: dict[str, Any] = {"max_tokens": 60, "temperature": 1.0, "logprobs": 3, "ignore_eos": True}


def alone(engine: Any, i: int) -> StepOutput:
    return run(engine, request(f"alone {i}", PROMPTS[i], seed=i, **SAMPLING))[f"alone {i}"]


def same(one: StepOutput, other: StepOutput) -> bool:
    return (one.token_ids, one.logprobs) == (other.token_ids, other.logprobs)


@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [("float32", "none"), ("bfloat16", "none"), pytest.param("bfloat16", "int8", marks=vnni)],
)
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_with_and_without_company(
    checkpoint: Callable[[str], Path], name: str, dtype: str, quantization: str
) -> None:
    engine = make_engine(
        checkpoint(name), dtype=dtype, quantization=quantization, max_num_tokens=64, max_batch_size=16
    )
    expected = [alone(engine, i) for i in range(len(PROMPTS))]
    chance = random.Random(5)
    for i in range(len(PROMPTS)):
        others = [
            request(
                f"other {i} {j}",
                [chance.randrange(VOCAB) for _ in range(chance.randrange(1, 200))],
                max_tokens=chance.randrange(1, 90),
                temperature=1.5,
            )
            for j in range(chance.randrange(1, 12))
        ]
        outputs = run(engine, *others[::2], request("watched", PROMPTS[i], seed=i, **SAMPLING), *others[1::2])
        assert same(expected[i], outputs["watched"]), i


def test_sequences_that_lost_their_blocks_go_on_as_if_nothing_was(checkpoint: Callable[[str], Path]) -> None:
    roomy = make_engine(checkpoint("llama"), dtype="bfloat16", max_seq_len=256)
    expected = [alone(roomy, i) for i in range(len(PROMPTS))]
    # 24 blocks: one sequence of full length takes 16, these five together 35
    tight = make_engine(checkpoint("llama"), dtype="bfloat16", max_seq_len=256, kv_cache_tokens=24 * 16)
    preempted = 0
    original = tight._scheduler._preempt

    def counting(victim: Any) -> None:
        nonlocal preempted
        preempted += 1
        original(victim)

    tight._scheduler._preempt = counting  # type: ignore[method-assign]
    outputs = run(tight, *(request(f"{i}", PROMPTS[i], seed=i, **SAMPLING) for i in range(len(PROMPTS))))
    assert preempted > 0
    for i, one in enumerate(expected):
        assert same(one, outputs[f"{i}"]), i
    assert tight.stats().kv_blocks_used == 0
