"""LiteLLM's translation of OpenAI's calls, over chat, responses and Anthropic's messages."""

from __future__ import annotations

import json
from typing import Any

import litellm
from pydantic import BaseModel

from tests.conformance.frameworks.lines import (
    COLORS,
    KEY,
    MODEL,
    PICKED,
    SAID,
    SCRIPTED,
    URL,
    run,
    without_version,
)

ASKED = [{"role": "user", "content": "What is the capital of South Korea?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "pick",
        "parameters": {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]},
    },
}


class Choice(BaseModel):
    """The chosen color."""

    color: str


def ask(url: str, **more: Any) -> Any:
    where = {"model": f"openai/{MODEL}", "api_base": url, "api_key": KEY}
    return litellm.completion(**where, messages=more.pop("messages", ASKED), num_retries=0, **more)


class Features:
    def chat(self) -> None:
        """chat, whole and streamed"""
        whole = ask(URL, temperature=0).choices[0].message.content
        assert "Seoul" in whole
        pieces = [one.choices[0].delta.content or "" for one in ask(URL, temperature=0, stream=True)]
        assert "".join(pieces) == whole

    def tools(self) -> None:
        """chat: a tool is called, executed, and the answer is final"""
        (called,) = ask(SCRIPTED, tools=[TOOL]).choices[0].message.tool_calls
        assert json.loads(called.function.arguments) == {"color": PICKED}
        result = {"role": "tool", "tool_call_id": called.id, "content": "picked"}
        history = [*ASKED, {"role": "assistant", "tool_calls": [called.model_dump()]}, result]
        assert ask(SCRIPTED, messages=history, tools=[TOOL]).choices[0].message.content == SAID

    def structured(self) -> None:
        """chat: structured output by response_format"""
        question = [{"role": "user", "content": f"Choose one of {COLORS}, as JSON."}]
        answer = ask(URL, messages=question, response_format=Choice, max_tokens=200, temperature=0)
        assert Choice.model_validate_json(answer.choices[0].message.content).color

    def responses(self) -> None:
        """responses"""
        answer = litellm.responses(
            model=f"openai/{MODEL}", api_base=URL, api_key=KEY, input=ASKED[0]["content"], temperature=0
        )
        assert "Seoul" in answer.output[0].content[0].text

    def messages(self) -> None:
        """messages"""
        answer = litellm.completion(
            model=f"anthropic/{MODEL}",
            api_base=without_version(URL),
            api_key=KEY,
            messages=ASKED,
            temperature=0,
            max_tokens=40,
        )
        assert "Seoul" in answer.choices[0].message.content

    def errors(self) -> None:
        """errors"""
        refused = None
        try:
            ask(URL, temperature=9)
        except litellm.BadRequestError as error:
            refused = str(error)
        assert "temperature" in str(refused)


run(Features())
