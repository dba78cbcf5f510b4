"""A sequence's own bookkeeping: rank, time limits, computing again, and tokens under way."""

import pytest

from trtllm_openai.engines.torch.block_pool import block_name, first_name
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.generation import GenerationRequest, SamplingParams


def new(tokens: int = 10, max_tokens: int = 3, **fields: object) -> Sequence:
    sampling = {name: fields.pop(name) for name in ("seed", "prompt_logprobs") if name in fields}
    params = SamplingParams(max_tokens, **sampling)  # type: ignore[arg-type]  # the fields of the test
    return Sequence(GenerationRequest("name", list(range(tokens)), params, **fields))  # type: ignore[arg-type]


def test_priority_ranks_first_then_arrival() -> None:
    plain, low, high, later_high, middle = (new(priority=one) for one in (None, 0.0, 1.0, 1.0, 0.5))
    ranked = sorted([later_high, middle, low, high, plain], key=Sequence.rank)
    assert ranked == [high, later_high, plain, middle, low]


def test_the_time_limit_holds_also_while_it_runs() -> None:
    one = new(allotted_ms=500)
    one.cached_tokens = 0
    assert not one.out_of_time(one.submitted + 0.4)
    assert one.out_of_time(one.submitted + 0.6)
    assert not new().out_of_time(1e12)


def test_seeds_are_given_or_drawn() -> None:
    assert new(seed=7).seed == 7
    assert new(seed=0).seed == 0
    assert len({new().seed for _ in range(50)}) == 50


def test_tokens_of_the_request_are_not_shared() -> None:
    one = new(3)
    one.tokens.append(99)
    assert one.request.prompt_token_ids == [0, 1, 2]
    assert (one.prompt_tokens, one.generated) == (3, 1)


def test_what_was_generated_is_computed_again_as_a_prompt() -> None:
    one = new(4, prompt_logprobs=0)
    one.tokens += [50, 51]
    one.computed = 6
    assert not one.prefilling
    one.prompt_logprobs = [None, None, None]
    one.begin_again()
    assert (one.computed, one.prefill_end, one.prefilling) == (0, 6, True)
    assert (one.prompt_tokens, one.generated) == (4, 2)
    assert one.prompt_logprobs == [None]


def test_scores_that_were_given_out_are_not_computed_again() -> None:
    one = new(prompt_logprobs=0)
    one.prompt_logprobs = None
    one.begin_again()
    assert one.prompt_logprobs is None


@pytest.mark.parametrize(
    ("generated", "unread", "complete"),
    [(0, 0, False), (1, 1, False), (2, 1, True), (0, 3, True), (3, 0, False)],
)
def test_complete_while_the_last_token_is_not_read(generated: int, unread: int, complete: bool) -> None:
    one = new(max_tokens=3)
    one.tokens += [9] * generated
    one.unread = unread
    assert one.complete is complete


def test_names_of_blocks_are_chained_and_kept() -> None:
    one = new(12, cache_salt="s")
    first = block_name(first_name("s"), [0, 1, 2, 3])
    second = block_name(first, [4, 5, 6, 7])
    assert one.names(2, 4) == [first, second]
    assert one.names(1, 4) == [first]
    assert one.names(3, 4) == [first, second, block_name(second, [8, 9, 10, 11])]
    assert one.names(1, 4) != new(12).names(1, 4)
