"""Fields about tokens: which are asked for, and the form of the prompt's."""

import math
from typing import Any

import pytest

from trtllm_openai.api.choice import Choice
from trtllm_openai.api.token_fields import MIN_LOGPROB, TokenFields
from trtllm_openai.generation import GenerationRequest, SamplingParams, TokenLogprobs
from trtllm_openai.protocol.completions import CompletionRequest
from trtllm_openai.text.choice import ChoiceDecoder, TextDelta
from trtllm_openai.text.tokenizer import Tokenizer

PROMPT = [70, 71]


def fields(tokenizer: Tokenizer, logprobs: int | None = None, **asked: Any) -> TokenFields:
    return TokenFields.of(tokenizer, CompletionRequest(prompt=PROMPT, **asked), logprobs)


def choice(tokenizer: Tokenizer, *values: TokenLogprobs) -> Choice:
    request = GenerationRequest("x", PROMPT, SamplingParams(max_tokens=1))
    return Choice(0, request, ChoiceDecoder(tokenizer), prompt_logprobs=[None, *values])


def test_nothing_unless_asked(demo_tokenizer: Tokenizer) -> None:
    plain = fields(demo_tokenizer, return_token_ids=False)
    assert plain.of_prompt(choice(demo_tokenizer, TokenLogprobs(71, -1.0, []))) == {}
    assert plain.of_delta(TextDelta(token_ids=[5])) == {}
    assert plain.name(70) == demo_tokenizer.token_text(70)


def test_ids(demo_tokenizer: Tokenizer) -> None:
    asked = fields(demo_tokenizer, return_token_ids=True, return_tokens_as_token_ids=True)
    assert asked.of_prompt(choice(demo_tokenizer)) == {"prompt_token_ids": PROMPT}
    assert asked.of_delta(TextDelta(token_ids=[5])) == {"token_ids": [5]}
    assert asked.of_delta(TextDelta()) == {"token_ids": []}
    assert asked.name(70) == "token_id:70"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_prompts_own_token_comes_first(demo_tokenizer: Tokenizer, count: int) -> None:
    """It has its rank also where it is not among the alternatives; others have their places."""
    value = TokenLogprobs(71, -math.inf, [(80, -0.5), (81, -0.7)], rank=9)
    found = fields(demo_tokenizer, prompt_logprobs=count).of_prompt(choice(demo_tokenizer, value))
    first, second = found["prompt_logprobs"]
    assert first is None
    assert list(second) == ["71", "80", "81"][: count + 1]
    assert second["71"] == {
        "logprob": MIN_LOGPROB,
        "rank": 9,
        "decoded_token": demo_tokenizer.token_text(71),
    }
    assert [second[name]["rank"] for name in list(second)[1:]] == [1, 2][:count]


def test_a_likely_token_is_there_once(demo_tokenizer: Tokenizer) -> None:
    value = TokenLogprobs(71, -0.7, [(80, -0.5), (71, -0.7)], rank=2)
    found = fields(demo_tokenizer, prompt_logprobs=2).of_prompt(choice(demo_tokenizer, value))
    assert {name: one["rank"] for name, one in found["prompt_logprobs"][1].items()} == {"71": 2, "80": 1}
