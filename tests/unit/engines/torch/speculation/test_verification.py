"""With drafts, right and wrong ones, an answer is what it is without, log-probabilities included."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.engines.torch.conftest import VOCAB, finish, make_engine, request, run
from tests.unit.engines.torch.test_linear import vnni
from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch.engine import TorchEngine
from trtllm_openai.engines.torch.loader import load
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.engines.torch.speculation.drafter import Drafter
from trtllm_openai.engines.torch.speculation.policy import StepCost
from trtllm_openai.engines.torch.speculation.verification import spread, verified
from trtllm_openai.generation import GenerationRequest, Guide, SamplingParams, StepOutput, Thinking
from trtllm_openai.text.tokenizer import Tokenizer


class Oracle(Drafter):
    """Knows the answers and drafts them with mistakes: some are right, some at first, some nowhere."""

    def __init__(self, answers: dict[str, list[int]], chance: random.Random) -> None:
        super().__init__("suffix", 12, StepCost((1, 1.0), (2, 1.0)))
        self._known, self._chance = answers, chance

    def propose(self, sequences: list[Sequence], most: int) -> dict[Sequence, list[int]]:
        drafts = {}
        for sequence in sequences:
            left = sequence.request.sampling.max_tokens - sequence.generated - 1
            length = min(left, most, self._chance.randrange(14))
            start = sequence.generated
            draft = self._known[sequence.request.request_id][start : start + length]
            draft += [self._chance.randrange(VOCAB) for _ in range(length - len(draft))]
            if draft and self._chance.random() < 0.6:
                draft[self._chance.randrange(len(draft))] = self._chance.randrange(VOCAB)
            if draft:
                drafts[sequence] = draft
                most -= len(draft)
        return drafts


def with_oracle(engine: TorchEngine, expected: dict[str, StepOutput], seed: int) -> Oracle:
    oracle = Oracle({name: list(one.token_ids) for name, one in expected.items()}, random.Random(seed))
    engine._drafter = engine._scheduler._drafter = oracle
    return oracle


def plain(engine: TorchEngine) -> None:
    engine._drafter = engine._scheduler._drafter = None


def outcome(one: StepOutput) -> tuple[Any, ...]:
    return one.token_ids, one.logprobs, one.finish_reason, one.stop_token_id, one.error, one.prompt_logprobs


def same(expected: dict[str, StepOutput], got: dict[str, StepOutput]) -> None:
    for name, one in expected.items():
        assert outcome(one) == outcome(got[name]), name


PARAMETERS: list[dict[str, Any]] = [
    {"temperature": 0},
    {},
    {"logprobs": 3},
    {"top_p": 0.7, "top_k": 40},
    {"min_p": 0.05},
    {"frequency_penalty": 0.9, "presence_penalty": 0.4, "logprobs": 2},
    {"repetition_penalty": 1.4},
    {"temperature": 0, "repetition_penalty": 1.2, "frequency_penalty": 0.5},
    {"logit_bias": {7: 4.0, 9: -100.0}},
    {"bad_words": ((3,), (4, 5), (10, 11, 12))},
    {"allowed_token_ids": tuple(range(3, 40))},
    {"min_tokens": 9, "stop_token_ids": tuple(range(100, 400)), "ignore_eos": False},
    {"stop_token_ids": tuple(range(100, 130)), "ignore_eos": False},
    {"max_tokens": 1},
    {"max_tokens": 2},
    {"prompt_logprobs": 1},
]


def requests(chance: random.Random, count: int, most: int = 40) -> list[GenerationRequest]:
    return [
        request(
            str(index),
            [chance.randrange(3, VOCAB) for _ in range(chance.choice((1, 3, 30, 62, 90, 130)))],
            **{
                "max_tokens": chance.randrange(1, most),
                "temperature": chance.choice((0.3, 1.0)),
                "ignore_eos": True,
                "seed": chance.randrange(2**32),
                **chance.choice(PARAMETERS),
            },
        )
        for index in range(count)
    ]


@given(st.integers(0, 2**32))
@settings(max_examples=6, deadline=None)
def test_answers_do_not_depend_on_drafts(checkpoint: Callable[[str], Path], seed: int) -> None:
    check_any_requests(checkpoint("llama"), seed)


@pytest.mark.slow
@given(st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_answers_do_not_depend_on_drafts_at_length(checkpoint: Callable[[str], Path], seed: int) -> None:
    check_any_requests(checkpoint("llama"), seed)


def check_any_requests(model: Path, seed: int) -> None:
    # 24 blocks, which several sequences soon outgrow
    engine = make_engine(
        model,
        speculation="suffix",
        max_seq_len=256,
        kv_cache_tokens=24 * 16,
        max_batch_size=6,
        max_num_tokens=96,
    )
    chance = random.Random(seed)
    ones = requests(chance, chance.randrange(1, 8))
    plain(engine)
    expected = run(engine, *ones)
    oracle = with_oracle(engine, expected, seed)
    tokens, steps = engine.stats().generated_tokens, engine.stats().steps
    same(expected, run(engine, *ones))
    assert engine.stats().kv_blocks_used == 0
    made = sum(len(one.token_ids) for one in expected.values())
    assert engine.stats().generated_tokens - tokens == made
    assert oracle.accepted.total() <= oracle.drafted
    if max(len(one.token_ids) for one in expected.values()) > 25:
        assert oracle.accepted, (engine.stats().steps - steps, "nothing was accepted")


@pytest.mark.parametrize(
    ("name", "quantization"), [("qwen3", "none"), pytest.param("llama", "int8", marks=vnni)]
)
def test_bfloat16(checkpoint: Callable[[str], Path], name: str, quantization: str) -> None:
    engine = make_engine(
        checkpoint(name),
        speculation="suffix",
        dtype="bfloat16",
        quantization=quantization,
        max_num_tokens=128,
        max_batch_size=16,
    )
    ones = [
        request(
            f"{i}", range(3, 3 + length), seed=i, max_tokens=40, temperature=1.0, logprobs=3, ignore_eos=True
        )
        for i, length in enumerate((1, 7, 50, 90, 180))
    ]
    plain(engine)
    expected = run(engine, *ones)
    for seed in range(2):
        oracle = with_oracle(engine, expected, seed)
        same(expected, run(engine, *ones))
        assert oracle.accepted.total() > 50


def test_an_abort_between_drafts(checkpoint: Callable[[str], Path]) -> None:
    engine = make_engine(checkpoint("llama"), speculation="suffix")
    ones = [
        request(name, [5, 6, 7], max_tokens=60, seed=1, temperature=1.0, ignore_eos=True) for name in "ab"
    ]
    plain(engine)
    expected = run(engine, *ones)
    with_oracle(engine, expected, 3)
    for one in ones:
        engine.submit(one)
    for _ in range(3):
        engine.step(0)
    engine.abort("a")
    assert [(one.token_ids, one.finish_reason) for one in engine.step(0) if one.request_id == "a"] == [
        ([], "abort")
    ]
    rest = finish(engine, {"b"})["b"]
    assert expected["b"].token_ids[-len(rest.token_ids) :] == rest.token_ids
    assert engine.stats().kv_blocks_used == 0


def test_every_output_says_how_many_draft_tokens_were_right(checkpoint: Callable[[str], Path]) -> None:
    engine = make_engine(checkpoint("llama"), speculation="suffix")
    one = request("a", [5, 6, 7], max_tokens=50, seed=1, temperature=1.0, ignore_eos=True)
    plain(engine)
    expected = run(engine, one)
    oracle = with_oracle(engine, expected, 2)
    engine.submit(one)
    outputs: list[StepOutput] = []
    while not outputs or outputs[-1].finish_reason is None:
        outputs += engine.step(0)
    assert all(output.accepted == len(output.token_ids) - 1 for output in outputs)
    assert sum(output.drafted for output in outputs) == oracle.drafted > 0
    stats = engine.stats()
    assert (stats.drafts, stats.draft_tokens) == (
        sum(output.drafted > 0 for output in outputs),
        oracle.drafted,
    )
    assert sum(stats.accepted_draft_tokens.values()) == sum(output.accepted for output in outputs)
    right = [sum(output.accepted > position for output in outputs) for position in range(12)]
    assert [stats.accepted_draft_tokens.get(str(position), 0) for position in range(12)] == right


def test_rows_and_what_counts() -> None:
    class Drawn:
        def __init__(self, token_id: int) -> None:
            self.token_id = token_id

    one, two, three = (Sequence(request(name, [1])) for name in "abc")
    drafts = {one: [4, 5, 6], three: [7]}
    rows, ahead = spread([one, two, three], drafts)
    assert rows == [one, one, one, one, two, three, three]
    assert ahead == [0, 1, 2, 3, 0, 0, 1]
    drawn = [Drawn(token) for token in (4, 5, 9, 6, 8, 7, 2)]
    found = [
        (sequence, drafted, [token.token_id for token in tokens])
        for sequence, drafted, tokens in verified([one, two, three], drafts, drawn)
    ]
    assert found == [(one, 3, [4, 5, 9]), (two, 0, [8]), (three, 1, [7, 2])]


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
GUIDES = [
    Guide("json_schema", json.dumps({"type": "array", "items": PERSON, "maxItems": 3})),
    Guide("regex", r"(\d{3}-\d{4} ){1,5}"),
    Guide("grammar", 'root ::= ("ha" | "hi")+ "!"'),
    Guide("json_object", thinking=Thinking("<think>", "</think>", (15, 2), opened=True, budget=9)),
    None,
]


def test_guides_hold_at_every_draft_position(few_layers: Path, demo_tokenizer: Tokenizer) -> None:
    """Masks follow the draft, budgets of thinking too; texts end where their guide ends them."""
    options = TorchSettings(
        speculation="suffix", dtype="float32", device="cpu", max_seq_len=256, max_batch_size=8
    )
    engine = load(few_layers, options, lambda *_: None, demo_tokenizer.vocabulary)
    try:
        prompt = demo_tokenizer.encode("Tell me about a person.\n", add_special_tokens=False)
        end_ids = tuple(demo_tokenizer.encode("</think>", add_special_tokens=False))
        ones = []
        for index, guide in enumerate(GUIDES):
            if guide is not None and guide.thinking is not None:
                thinking = msgspec.structs.replace(guide.thinking, end_ids=end_ids)
                guide = msgspec.structs.replace(guide, thinking=thinking)
            params = SamplingParams(
                max_tokens=45, seed=index, temperature=0.9, logprobs=1, frequency_penalty=0.2 * (index % 2)
            )
            ones.append(GenerationRequest(str(index), prompt, params, guide=guide))
        plain(engine)
        expected = run(engine, *ones)
        assert expected["1"].finish_reason == "stop"
        oracle = with_oracle(engine, expected, 1)
        same(expected, run(engine, *ones))
        assert oracle.accepted.total() > 20
        drafter = Drafter("suffix", 12, StepCost((1, 1.0), (2, 1.0)), 1000)
        for one in expected.values():  # as if each had been answered before
            drafter._answers.add(None, prompt, one.token_ids)
        engine._drafter = engine._scheduler._drafter = drafter
        same(expected, run(engine, *ones))
        assert drafter.accepted.total() > 0.3 * drafter.drafted > 10
    finally:
        engine.shutdown(1)
