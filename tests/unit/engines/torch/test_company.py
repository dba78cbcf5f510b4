"""An answer does not depend on what else is in the batch: compared bit by bit, log-probabilities included."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.engines.torch.conftest import VOCAB, finish, make_engine, request, run
from tests.unit.engines.torch.test_linear import vnni
from trtllm_openai.generation import StepOutput

PROMPTS = [list(range(3, 3 + length)) for length in (1, 7, 30, 50, 90, 180)]
SAMPLING: dict[str, Any] = {"max_tokens": 60, "temperature": 1.0, "logprobs": 3, "ignore_eos": True}


def alone(engine: Any, i: int) -> StepOutput:
    return run(engine, request(f"alone {i}", PROMPTS[i], seed=i, **SAMPLING))[f"alone {i}"]


def same(one: StepOutput, other: StepOutput) -> bool:
    return (one.token_ids, one.logprobs) == (other.token_ids, other.logprobs)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *(
            (name, {"dtype": dtype, "quantization": quantization})
            for name in ("llama", "qwen3")
            for dtype, quantization in (("float32", "none"), ("bfloat16", "none"))
        ),
        pytest.param("llama", {"dtype": "bfloat16", "quantization": "int8"}, marks=vnni),
        pytest.param("qwen3", {"dtype": "bfloat16", "quantization": "int8"}, marks=vnni),
        pytest.param("qwen3", {"dtype": "bfloat16", "kv_cache_dtype": "fp8"}, marks=pytest.mark.slow),
    ],
)
def test_with_and_without_company(
    checkpoint: Callable[[str], Path], name: str, settings: dict[str, Any]
) -> None:
    engine = make_engine(checkpoint(name), **settings, max_num_tokens=64, max_batch_size=16)
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


def test_prompts_that_are_computed_in_the_midst_of_a_step(checkpoint: Callable[[str], Path]) -> None:
    """Between the layers of steps with and without prompts: neither answer changes, and theirs is first."""
    engine = make_engine(checkpoint("llama"), max_num_tokens=64)
    expected = [alone(engine, i) for i in range(len(PROMPTS))]
    looks, said = 0, list[StepOutput]()

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks in (2, 10, 33):  # in a prompt's first step, in its second, while all decode
            i = (2, 10, 33).index(looks)
            first = request(f"first {i}", PROMPTS[i], seed=i, **SAMPLING)
            engine.submit(msgspec.structs.replace(first, below_share=True))
            steps, before = engine.stats().steps, len(said)
            said.extend(engine.step_first())
            assert [one.request_id for one in said[before:]] == [f"first {i}"]
            assert engine.stats().steps == steps + 1

    engine.interrupt_with(look)
    for i in (4, 5):
        engine.submit(request(f"{i}", PROMPTS[i], seed=i, **SAMPLING))
    outputs = finish(engine, {"4", "5", "first 0", "first 1", "first 2"})
    for i in (4, 5):
        assert same(expected[i], outputs[f"{i}"])
    assert len(said) == 3
    for i, beginning in enumerate(said):
        rest = outputs[f"first {i}"]
        assert beginning.token_ids + rest.token_ids == expected[i].token_ids
        assert (beginning.logprobs or []) + (rest.logprobs or []) == expected[i].logprobs
    assert engine.stats().kv_blocks_used == 0


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "fp8"])
def test_sequences_that_lost_their_blocks_go_on_as_if_nothing_was(
    checkpoint: Callable[[str], Path], kv_cache_dtype: str
) -> None:
    settings: dict[str, Any] = {"dtype": "bfloat16", "max_seq_len": 256, "kv_cache_dtype": kv_cache_dtype}
    roomy = make_engine(checkpoint("llama"), **settings)
    expected = [alone(roomy, i) for i in range(len(PROMPTS))]
    # 24 blocks: one sequence of full length takes 16, these five together 35
    tight = make_engine(checkpoint("llama"), **settings, kv_cache_tokens=24 * 16)
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
