"""Whether an answer begins with thinking, from the end of its prompt."""

import pytest

from trtllm_openai.chat.parsers import REASONING
from trtllm_openai.chat.thinking import thinking_state


@pytest.mark.parametrize(
    ("prompt", "continued", "state"),
    [
        ("user: hi\nassistant:", None, "possible"),
        ("assistant:<think>\n", None, "open"),
        ("assistant:<think>\n\n</think>\n\n", None, "over"),
        ("what does <think> mean?\nassistant:", None, "possible"),
        ("assistant:<think>I should", "<think>I should", "open"),
        ("assistant:<think>So.</think>Yes, ", "<think>So.</think>Yes, ", "over"),
        ("what does <think> mean?\nassistant: It", "It", "over"),
    ],
)
def test_state(prompt: str, continued: str | None, state: str) -> None:
    assert thinking_state(prompt, REASONING["think"], continued) == state
