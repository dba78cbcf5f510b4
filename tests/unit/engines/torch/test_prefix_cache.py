"""A warm cache changes how much is computed and nothing else: compared bit by bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.engines.torch.conftest import make_engine, request, run
from trtllm_openai.generation import StepOutput

SAMPLING: dict[str, Any] = {
    "max_tokens": 12,
    "temperature": 1.0,
    "seed": 4,
    "logprobs": 3,
    "ignore_eos": True,
}
BEGINNING = [(7 * i) % 400 + 3 for i in range(200)]
PROMPTS = {
    "all": (BEGINNING, 192),
    "last tile": (BEGINNING[:192], 128),
    "one more token": (BEGINNING[:193], 192),
    "other end": ([*BEGINNING[:150], *range(3, 180)], 128),
    "short": (BEGINNING[:64], 0),
    "one tile": (BEGINNING[:65], 64),
    "other": ([9, *BEGINNING], 0),
}


def content(output: StepOutput) -> Any:
    return output.token_ids, output.logprobs, output.finish_reason


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_num_tokens": 100, "max_batch_size": 3},
        {"block_size": 24},
        {"dtype": "bfloat16"},
        {"dtype": "bfloat16", "max_num_tokens": 100, "max_batch_size": 3},
        {"dtype": "bfloat16", "block_size": 24},
        {"dtype": "bfloat16", "kv_cache_dtype": "fp8", "max_num_tokens": 100, "max_batch_size": 3},
    ],
)
def test_warm_equals_cold(checkpoint: Callable[[str], Path], settings: dict[str, Any]) -> None:
    cold = make_engine(checkpoint("llama"), enable_prefix_caching=False, **settings)
    warm = make_engine(checkpoint("llama"), **settings)
    run(warm, request("first", BEGINNING))
    cached = 0
    for name, (prompt, expected) in PROMPTS.items():
        one = request(name, prompt, **SAMPLING)
        alone, again = run(cold, one)[name], run(warm, one)[name]
        assert content(again) == content(alone), name
        assert alone.cached_tokens == 0
        if "block_size" not in settings:
            assert again.cached_tokens == expected, name
        assert again.cached_tokens <= expected
        cached += again.cached_tokens
    together = run(warm, *(request(name, prompt, **SAMPLING) for name, (prompt, _) in PROMPTS.items()))
    for name, (prompt, _) in PROMPTS.items():
        assert content(together[name]) == content(run(cold, request(name, prompt, **SAMPLING))[name]), name
    assert warm.stats().kv_blocks_reused * warm.info.kv_block_size >= cached > 0
    assert cold.stats().kv_blocks_reused == 0
    assert warm.stats().kv_blocks_used == 0


def test_an_answer_in_the_next_prompt_is_computed_as_a_prompt(checkpoint: Callable[[str], Path]) -> None:
    cold = make_engine(checkpoint("llama"), dtype="bfloat16", enable_prefix_caching=False)
    warm = make_engine(checkpoint("llama"), dtype="bfloat16")
    prompt = BEGINNING[:70]
    cached = []
    for turn in range(4):
        one = request(f"turn {turn}", prompt, **{**SAMPLING, "max_tokens": 60})
        expected, output = run(cold, one)[one.request_id], run(warm, one)[one.request_id]
        assert content(output) == content(expected)
        cached.append(output.cached_tokens)
        prompt = [*prompt, *output.token_ids, *range(20, 30)]
    assert cached == [0, 64, 128, 192]  # each prompt lengthens by 70; what it had is there


def test_salts_do_not_mix(checkpoint: Callable[[str], Path]) -> None:
    engine = make_engine(checkpoint("llama"))
    salts = [None, "a", "b", "a", None]
    cached = []
    for number, salt in enumerate(salts):
        one = msgspec.structs.replace(request(str(number), BEGINNING), cache_salt=salt)
        cached.append(run(engine, one)[str(number)].cached_tokens)
    assert cached == [0, 0, 0, 192, 192]


def test_the_cache_makes_room_for_the_living(checkpoint: Callable[[str], Path]) -> None:
    cold = make_engine(checkpoint("llama"), max_seq_len=256, enable_prefix_caching=False)
    tight = make_engine(checkpoint("llama"), max_seq_len=256, kv_cache_tokens=40 * 16)
    for round_ in range(3):
        ones = [request(f"{round_} {i}", [i + 3, *BEGINNING[: 150 + i]], **SAMPLING) for i in range(6)]
        outputs = run(tight, *ones)
        for one in ones:
            assert content(outputs[one.request_id]) == content(run(cold, one)[one.request_id])
    again = run(tight, request("latest", [8, *BEGINNING[:155]], **SAMPLING))["latest"]
    assert again.cached_tokens == 128
    assert tight.stats().kv_blocks_used == 0


def test_scored_prompts_are_whole(checkpoint: Callable[[str], Path]) -> None:
    engine = make_engine(checkpoint("llama"))
    run(engine, request("first", BEGINNING))
    engine.submit(request("scored", BEGINNING, prompt_logprobs=1, max_tokens=0))
    (output,) = [one for _ in range(3) for one in engine.step(0.01)]
    assert output.cached_tokens == 0
    assert output.prompt_logprobs is not None
    assert len(output.prompt_logprobs) == len(BEGINNING)
