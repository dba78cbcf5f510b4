"""LlamaIndex over OpenAILike and OpenAILikeResponses: completions, chat, agents, structured output.

Its class for Anthropic's API refuses models with other names than Anthropic's.
"""

from __future__ import annotations

from typing import Any, Literal

from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai_like import OpenAILike, OpenAILikeResponses
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
)

ASKED = [ChatMessage(role="user", content="What is the capital of South Korea?")]


class Choice(BaseModel):
    """The chosen color."""

    color: Literal["red", "green"]


def chat(url: str, **more: Any) -> LLM:
    known = {"is_chat_model": True, "is_function_calling_model": True, "context_window": 2048}
    return OpenAILike(model=MODEL, api_base=url, api_key=KEY, max_retries=0, temperature=0, **known, **more)


def responses(url: str) -> LLM:
    known = {"is_function_calling_model": True, "context_window": 2048}
    return OpenAILikeResponses(model=MODEL, api_base=url, api_key=KEY, max_retries=0, **known)


class Features:
    def complete(self) -> None:
        """completions"""
        model = OpenAILike(
            model=MODEL, api_base=URL, api_key=KEY, is_chat_model=False, temperature=0, max_tokens=8
        )
        whole = model.complete("1, 2, 3,").text
        assert whole
        *_, last = model.stream_complete("1, 2, 3,")
        assert last.text == whole

    def chat(self) -> None:
        """chat, whole and streamed"""
        model = chat(URL, max_tokens=30)
        whole = model.chat(ASKED).message.content
        assert "Seoul" in str(whole)
        *_, last = model.stream_chat(ASKED)
        assert last.message.content == whole

    async def chat_agent(self) -> None:
        """chat: an agent calls a tool, executes it, and answers"""
        await _loop(chat(SCRIPTED))

    async def chat_agent_whole(self) -> None:
        """chat: the same, not streamed"""
        await _loop(chat(SCRIPTED), streaming=False)

    def chat_structured(self) -> None:
        """chat: structured output by response_format"""
        model = chat(URL, max_tokens=200, should_use_structured_outputs=True)
        assert model.structured_predict(Choice, _prompt()).color in COLORS

    def chat_structured_by_tool(self) -> None:
        """chat: structured output as a tool's arguments"""
        model = chat(URL, max_tokens=200)
        assert model.structured_predict(Choice, _prompt()).color in COLORS

    async def responses_agent(self) -> None:
        """responses: an agent calls a tool, executes it, and answers"""
        await _loop(responses(SCRIPTED))

    async def responses_agent_whole(self) -> None:
        """responses: the same, not streamed"""
        await _loop(responses(SCRIPTED), streaming=False)


def _prompt() -> Any:

    return PromptTemplate("Red or green?")


async def _loop(model: LLM, streaming: bool = True) -> None:
    picked: list[str] = []

    def pick(color: str) -> str:
        """Pick a color."""
        picked.append(color)
        return "picked"

    agent = FunctionAgent(tools=[pick], llm=model, system_prompt="Be brief.", streaming=streaming)
    handler = agent.run("Pick one.")
    deltas = [event.delta async for event in handler.stream_events() if isinstance(event, AgentStream)]
    answer = await handler
    assert str(answer) == SAID
    assert picked == [PICKED]
    assert not streaming or len(deltas) > 5


run(Features())
