"""Drafts on CUDA: the answers of the same engine without them.

In float32 the rounding of products, which may differ with the number of rows, is too small to change a token;
in bfloat16 it does at times, and a test can only ask for most of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engines.torch.conftest import VOCAB, make_engine, request, run
from tests.unit.engines.torch.speculation.test_verification import (
    GUIDES,
    plain,
    requests,
    with_oracle,
)
from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch.engine import TorchEngine
from trtllm_openai.engines.torch.loader import load
from trtllm_openai.engines.torch.speculation.drafter import Drafter
from trtllm_openai.engines.torch.speculation.policy import StepCost
from trtllm_openai.generation import GenerationRequest, SamplingParams, StepOutput
from trtllm_openai.text.tokenizer import Tokenizer

FREE = StepCost((1, 1.0), (2, 1.0))


def same_texts(expected: dict[str, StepOutput], got: dict[str, StepOutput], parting: int = 0) -> None:
    """`parting`: how many may part at two neighbours in the vocabulary, where rounding moves bounds."""
    for name, one in expected.items():
        other = got[name]
        if one.token_ids != other.token_ids and parting:
            first, second = next(
                pair for pair in zip(one.token_ids, other.token_ids, strict=True) if pair[0] != pair[1]
            )
            assert abs(first - second) == 1, name
            parting -= 1
            continue
        assert one.token_ids == other.token_ids, name
        assert (one.finish_reason, one.stop_token_id) == (other.finish_reason, other.stop_token_id), name
        if one.logprobs is not None:
            assert other.logprobs is not None
            for a, b in zip(one.logprobs, other.logprobs, strict=True):
                assert a.token_id == b.token_id, name
                assert a.logprob == pytest.approx(b.logprob, abs=1e-3), name


@pytest.mark.parametrize("seed", range(12))
def test_answers_do_not_depend_on_drafts(checkpoint: Callable[[str], Path], seed: int) -> None:
    """Any parameters, and a cache of 24 blocks that several sequences soon outgrow."""
    engine = make_engine(
        checkpoint("llama"),
        device="cuda",
        speculation="suffix",
        max_seq_len=256,
        kv_cache_tokens=24 * 16,
        max_batch_size=6,
    )
    chance = random.Random(seed)
    ones = requests(chance, chance.randrange(1, 8), 60)
    plain(engine)
    expected = run(engine, *ones)
    oracle = with_oracle(engine, expected, seed)
    same_texts(expected, run(engine, *ones))
    assert engine.stats().kv_blocks_used == 0
    if max(len(one.token_ids) for one in expected.values()) > 30:
        assert oracle.accepted


@pytest.mark.parametrize("mode", ["auto", "suffix", "ngram"])
def test_drafts_of_its_own_between_steps_in_flight(checkpoint: Callable[[str], Path], mode: Any) -> None:
    """Texts that repeat: steps are read first where drafts pay, and launched ahead elsewhere."""
    engine = make_engine(checkpoint("llama"), device="cuda", speculation=mode, max_batch_size=8)
    chance = random.Random(3)
    ones = [
        request(
            str(index),
            [chance.randrange(3, VOCAB) for _ in range(20)] * 3,
            max_tokens=80,
            ignore_eos=True,
            **({"logit_bias": {7 + index: 50.0}} if index % 2 else {"temperature": 1.0, "seed": index}),
        )
        for index in range(8)
    ]
    used = engine._drafter
    plain(engine)
    expected = run(engine, *ones)
    before = engine.stats().steps
    engine._drafter = engine._scheduler._drafter = used
    same_texts(expected, run(engine, *ones), parting=1)
    assert engine.stats().accepted_draft_tokens["0"] > 20
    assert engine.stats().steps - before <= before
    assert engine.stats().kv_blocks_used == 0


def test_guides(few_layers: Path, demo_tokenizer: Tokenizer) -> None:
    options = TorchSettings(
        speculation="suffix", dtype="float32", device="cuda", max_seq_len=256, max_batch_size=8
    )
    engine = load(few_layers, options, lambda *_: None, demo_tokenizer.vocabulary)
    try:
        prompt = demo_tokenizer.encode("Tell me about a person.\n", add_special_tokens=False)
        ones = [
            GenerationRequest(
                str(index),
                prompt,
                SamplingParams(
                    max_tokens=70, seed=index, temperature=0.9, frequency_penalty=0.2 * (index % 2)
                ),
                guide=guide,
            )
            for index, guide in enumerate(GUIDES)
            if guide is None or guide.thinking is None
        ]
        plain(engine)
        expected = run(engine, *ones)
        oracle = with_oracle(engine, expected, 1)
        same_texts(expected, run(engine, *ones))
        assert oracle.accepted.total() > 40
    finally:
        engine.shutdown(1)


def answers(engine: TorchEngine, drafter: Drafter | None, ones: list[GenerationRequest]) -> list[list[int]]:
    engine._drafter = engine._scheduler._drafter = drafter
    found = run(engine, *ones)
    return [found[one.request_id].token_ids for one in ones]


def test_bfloat16_differs_only_by_rounding(checkpoint: Callable[[str], Path]) -> None:
    """As with another number of sequences: most answers are equal, the others up to a near tie."""
    engine = make_engine(
        checkpoint("llama"), device="cuda", speculation="suffix", dtype="bfloat16", max_batch_size=16
    )
    chance = random.Random(5)
    ones = [
        request(str(i), [chance.randrange(3, VOCAB) for _ in range(30)], max_tokens=40, ignore_eos=True)
        for i in range(16)
    ]
    expected = answers(engine, None, ones)
    got = answers(engine, Drafter("suffix", 8, FREE, read_cost=0.1), ones)
    shared = [
        next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))
        for one, other in zip(expected, got, strict=True)
    ]
    assert sum(shared) > 0.5 * sum(map(len, expected)), shared
