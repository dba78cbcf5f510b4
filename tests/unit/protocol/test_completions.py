"""Completion requests on the wire."""

from typing import Any

import pytest
from pydantic import ValidationError

from trtllm_openai.protocol.completions import CompletionRequest


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2, 3]], []])
def test_prompts_of_every_form(prompt: Any) -> None:
    assert CompletionRequest(prompt=prompt).prompt == prompt


@pytest.mark.parametrize("prompt", [None, 5, {}, ["a", 1], [1, "a"], [[1], 2], [-1], [[-1]], [1.5], [True]])
def test_mixed_and_wrong_prompts(prompt: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        CompletionRequest(prompt=prompt)
    assert {error["loc"][0] for error in caught.value.errors()} == {"prompt"}


@pytest.mark.parametrize(("name", "value"), [("logprobs", -1), ("best_of", 0), ("best_of", 129)])
def test_ranges(name: str, value: int) -> None:
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({"prompt": "a", name: value})
    assert caught.value.errors()[0]["loc"][0] == name
