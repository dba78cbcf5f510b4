"""A sampled token becomes an output, the end of its sequence, or an error of that sequence alone."""

from collections.abc import Sequence as Items
from typing import Any

import msgspec
import pytest
import torch

from tests.unit.engines.torch.conftest import request
from tests.unit.engines.torch.test_guide_trial import END, VOCABULARY
from trtllm_openai.engines.base import FAILED_ON_REQUEST
from trtllm_openai.engines.torch.guides import compile_guide, make_tokenizer
from trtllm_openai.engines.torch.logit_rules import LogitRules
from trtllm_openai.engines.torch.output_processor import NO_TOKEN_POSSIBLE, OutputProcessor, begun, failed
from trtllm_openai.engines.torch.plan import Chunk, Plan
from trtllm_openai.engines.torch.sampler import NO_TOKEN, Sampled
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.generation import (
    Capabilities,
    EngineInfo,
    EngineStats,
    Guide,
    StepOutput,
    TokenLogprobs,
)

CPU = torch.device("cpu")
EOS, STOP = END, 9
INFO = EngineInfo("torch", "", "float32", "cpu", len(VOCABULARY), (EOS,), 100, 4, Capabilities())


@pytest.fixture
def outputs() -> OutputProcessor:
    return OutputProcessor(INFO, CPU)


def new(guide: Guide | None = None, **sampling: Any) -> Sequence:
    asked = request("x", range(3, 8), **{"max_tokens": 3, "stop_token_ids": (STOP,), **sampling})
    return Sequence(msgspec.structs.replace(asked, guide=guide))


def take(outputs: OutputProcessor, sequence: Sequence, *tokens: int) -> list[StepOutput]:
    return [outputs.take(sequence, Sampled(token, None)) for token in tokens]


def reasons(found: Items[StepOutput]) -> list[str | None]:
    return [output.finish_reason for output in found]


def test_a_token_that_ends_its_sequence(outputs: OutputProcessor) -> None:
    assert reasons(take(outputs, new(), 20, 21, 22)) == [None, None, "length"]
    for last in (EOS, STOP):
        found = take(outputs, new(), 20, last)
        assert reasons(found) == [None, "stop"]
        assert (found[-1].token_ids, found[-1].stop_token_id) == ([last], last)
    assert reasons(take(outputs, new(ignore_eos=True), EOS, EOS, STOP)) == [None, None, "stop"]
    (scored,) = take(outputs, new(max_tokens=0), 20)
    assert (scored.token_ids, scored.finish_reason) == ([], "length"), "only the prompt was wanted"


def test_the_first_output_has_what_is_known_of_the_prompt(outputs: OutputProcessor) -> None:
    sequence, scores = new(), [None, TokenLogprobs(4, -0.5, [])]
    sequence.cached_tokens, sequence.queued_ms, sequence.prompt_logprobs = 4, 1.5, scores
    first, second = take(outputs, sequence, 20, 21)
    assert (first.cached_tokens, first.queued_ms, first.prompt_logprobs) == (4, 1.5, scores)
    assert (second.cached_tokens, second.queued_ms, second.prompt_logprobs) == (0, None, None)


def test_no_token(outputs: OutputProcessor) -> None:
    (found,) = take(outputs, new(), NO_TOKEN)
    assert (found.token_ids, found.finish_reason, found.error_code) == ([], "error", NO_TOKEN_POSSIBLE)
    assert found.error == "No token can be chosen: the sampling parameters allow none."
    (found,) = take(outputs, new(Guide("regex", "(a", "p", optional=True)), NO_TOKEN)
    assert (found.error_code, found.error_param) == (NO_TOKEN_POSSIBLE, None), "it goes without its guide"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer(VOCABULARY, len(VOCABULARY), (EOS,))


def guided(tokenizer: Any, regex: str) -> Sequence:
    guide = Guide("regex", regex, "p")
    sequence = new(guide, stop_token_ids=())
    sequence.matcher = compile_guide(tokenizer, guide, (EOS,), 5.0)
    return sequence


def test_a_guide_that_fails(outputs: OutputProcessor, tokenizer: Any) -> None:
    stuck, refusing, slow = (guided(tokenizer, "a*b") for _ in range(3))
    slow.matcher._allowed_ms = 0
    ends = [
        *take(outputs, stuck, NO_TOKEN),
        *take(outputs, refusing, ord("a"), ord("c"))[1:],
        *take(outputs, slow, ord("a")),
    ]
    for found, why in zip(
        ends,
        ["the sampling parameters and the guide allow none", "'p' ended: ", "'p' ended: it is too complex"],
        strict=True,
    ):
        assert (found.error or "").startswith(f"No token can be chosen: {why}")
        assert (found.token_ids, found.finish_reason) == ([], "error")
        assert (found.error_param, found.error_code) == ("p", NO_TOKEN_POSSIBLE)
    stats = EngineStats()
    outputs.count(stats)
    assert stats.guides_ended == {NO_TOKEN_POSSIBLE: 2, "guide_too_complex": 1}


def test_a_guide_that_allows_no_more_ends_its_sequence(outputs: OutputProcessor, tokenizer: Any) -> None:
    assert reasons(take(outputs, guided(tokenizer, "a*b"), ord("a"), ord("b"))) == [None, "stop"]


def test_what_raises_ends_its_sequence(outputs: OutputProcessor) -> None:
    faulty, broken = new(), new(Guide("regex", "a"))
    faulty.faulty, broken.matcher = True, object()
    for sequence in (faulty, broken):
        assert take(outputs, sequence, 20) == [failed(sequence)]
    assert (failed(faulty).finish_reason, failed(faulty).error) == ("error", FAILED_ON_REQUEST)


def take_all(outputs: OutputProcessor, sequence: Sequence, *tokens: int) -> tuple[list[StepOutput], int]:
    accepted: list[Sequence] = []
    found, count = outputs.take_all(sequence, [Sampled(token, None) for token in tokens], accepted.append)
    assert accepted == [sequence] * count
    return found, count


def test_the_tokens_of_a_draft_are_one_output(outputs: OutputProcessor) -> None:
    sequence = new(max_tokens=5, presence_penalty=1.0)
    sequence.rules = LogitRules(sequence.request.sampling, [], frozenset(), INFO.vocab_size, CPU)
    (found,), accepted = take_all(outputs, sequence, 20, 21, 22)
    assert (found.token_ids, found.finish_reason, accepted) == ([20, 21, 22], None, 2)
    logits = torch.zeros(INFO.vocab_size)
    sequence.rules.apply(logits, sequence.generated)
    assert logits.nonzero().flatten().tolist() == [20, 21, 22], "each is counted"
    (found,), accepted = take_all(outputs, sequence, 23, STOP, 24)
    assert (found.token_ids, found.stop_token_id, accepted) == ([23, STOP], STOP, 1)
    stats = EngineStats()
    outputs.count(stats)
    assert stats.generated_tokens == 5


def test_an_error_among_the_tokens_of_a_draft_comes_after_them(outputs: OutputProcessor) -> None:
    (before, error), accepted = take_all(outputs, new(), 20, NO_TOKEN, 21)
    assert (before.token_ids, before.finish_reason) == ([20], None)
    assert (error.token_ids, error.finish_reason, accepted) == ([], "error", 1)


def test_only_a_prefill_that_goes_on_says_that_it_has_begun() -> None:
    whole, part, later = new(), new(), new()
    whole.computed, part.computed, later.computed = 5, 2, 4
    whole.queued_ms = part.queued_ms = 1.0
    chunks = [Chunk(whole, 0, 5), Chunk(part, 0, 2), Chunk(later, 2, 2)]
    assert begun(Plan(prefill=chunks)) == [StepOutput("x", [], queued_ms=1.0)]
    assert begun(Plan(prefill=chunks)) == []
    assert whole.queued_ms == 1.0, "its first token says so"
