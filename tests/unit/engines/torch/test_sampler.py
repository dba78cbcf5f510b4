"""The sampler against a float64 reference of the documented order of cuts, row by row in one batch."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from trtllm_openai.engines.torch.logit_rules import LogitRules
from trtllm_openai.engines.torch.sampler import sample, uniform
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.generation import GenerationRequest, SamplingParams

VOCAB = 3000


def sequence(**sampling: Any) -> Sequence:
    return Sequence(GenerationRequest("x", [1, 2], SamplingParams(max_tokens=10, **sampling)))


def reference_weights(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """What may be drawn, and how heavy it is: temperature, top_k, top_p over the rest, min_p."""
    scaled = logits.astype(np.float64) / params.temperature
    weights = np.exp(scaled - scaled.max())
    order = np.argsort(-weights, kind="stable")
    kept = np.ones(len(weights), bool)
    if params.top_k:
        kept[order[params.top_k :]] = False
    remaining = order[kept[order]]
    before = np.concatenate(([0.0], np.cumsum(weights[remaining])[:-1]))
    kept[remaining[before >= params.top_p * weights[remaining].sum()]] = False
    kept &= weights >= params.min_p
    return np.where(kept, weights, 0.0)


CASES: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.3},
    {"temperature": 2.0},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 2.0, "top_p": 0.999},
    {"temperature": 1.5, "top_k": 40},
    {"temperature": 1.5, "top_k": 700},
    {"temperature": 1.5, "top_k": 700, "top_p": 0.5},
    {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 1.2, "top_k": 100, "top_p": 0.8, "min_p": 0.05},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.0, "top_p": 1e-9},
]


def test_draws_follow_the_reference() -> None:
    """Every drawn token is one that may be drawn, and lies where the uniform number points."""
    generator = torch.Generator().manual_seed(3)
    for round_ in range(20):
        logits = torch.randn(len(CASES), VOCAB, generator=generator) * 3
        sequences = [sequence(seed=100 * round_ + i, **case) for i, case in enumerate(CASES)]
        chosen = sample(logits.clone(), sequences)
        for row, one, got in zip(logits.numpy(), sequences, chosen, strict=True):
            params = one.request.sampling
            weights = reference_weights(row, params)
            assert weights[got.token_id] > 0, params
            order = np.arange(VOCAB) if params.top_p == 1 and not params.top_k else np.argsort(-row)
            cumulative = np.cumsum(weights[order]) / weights.sum()
            place = int(np.flatnonzero(order == got.token_id)[0])
            u = uniform(one.seed, 0)
            below = cumulative[place - 1] if place else 0.0
            assert below - 1e-6 <= u <= cumulative[place] + 1e-6, params


def test_frequencies_are_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    expected = torch.softmax(logits[0].double(), -1).tolist()
    draws = 20_000
    batch = logits.repeat(draws, 1)
    counts = Counter(one.token_id for one in sample(batch, [sequence(seed=i) for i in range(draws)]))
    for token, share in enumerate(expected):
        assert counts[token] / draws == pytest.approx(share, abs=4 * math.sqrt(share / draws))


def test_uniform_is_uniform_over_seeds_and_positions() -> None:
    for numbers in ([uniform(seed, 3) for seed in range(4000)], [uniform(9, p) for p in range(4000)]):
        assert min(numbers) >= 0
        assert max(numbers) < 1
        assert np.mean(numbers) == pytest.approx(0.5, abs=0.02)
        assert np.var(numbers) == pytest.approx(1 / 12, abs=0.005)
    assert uniform(-5, 0) != uniform(5, 0)


def test_greedy_rows_among_random_ones_and_logprobs() -> None:
    torch.manual_seed(5)
    logits = torch.randn(4, VOCAB)
    rows = [
        sequence(temperature=0.0, logprobs=0),
        sequence(temperature=1.0, seed=1, logprobs=5),
        sequence(temperature=0.0),
        sequence(temperature=1e-9, seed=2, logprobs=20),
    ]
    chosen = sample(logits.clone(), rows)
    best = logits.argmax(-1).tolist()
    assert [chosen[0].token_id, chosen[2].token_id, chosen[3].token_id] == [best[0], best[2], best[3]]
    assert chosen[2].logprobs is None
    expected = torch.log_softmax(logits.double(), -1)
    for index in (0, 1, 3):
        logprobs = chosen[index].logprobs
        assert logprobs is not None
        assert logprobs.token_id == chosen[index].token_id
        assert logprobs.logprob == pytest.approx(expected[index, logprobs.token_id].item(), abs=1e-5)
        top = expected[index].topk(len(logprobs.top))
        assert [token for token, _ in logprobs.top] == top.indices.tolist()
        assert [value for _, value in logprobs.top] == pytest.approx(top.values.tolist(), abs=1e-5)
    assert [len(chosen[i].logprobs.top) for i in (0, 1, 3)] == [0, 5, 20]  # type: ignore[union-attr]


def test_rules_by_their_formulas() -> None:
    sampling = SamplingParams(
        max_tokens=10,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        repetition_penalty=1.5,
        logit_bias={7: 3.0, 2: -100.0},
        min_tokens=2,
    )
    prompt, answer, ends = [1, 2, 3], [3, 4, 4], frozenset({9})
    rules = LogitRules(sampling, prompt, ends, 10, torch.device("cpu"))
    for token in answer:
        rules.add(torch.tensor([token]))
    start = torch.tensor([1.0, -1.0, 2.0, 0.5, -0.5, 0.0, 3.0, 0.1, 0.2, 5.0])
    for generated in (1, 2):
        expected = []
        for token, value in enumerate(start.tolist()):
            if token in prompt + answer:
                value = value / 1.5 if value > 0 else value * 1.5
            value -= 0.25 * answer.count(token) + 0.5 * (token in answer)
            value += {7: 3.0, 2: -100.0}.get(token, 0.0)
            expected.append(-math.inf if token in ends and generated < 2 else value)
        row = start.clone()
        rules.apply(row, generated)
        assert row.tolist() == pytest.approx(expected)
