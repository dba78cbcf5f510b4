"""LangChain's agents over ChatOpenAI, both of its APIs, and ChatAnthropic. Beside langchain_suite.py."""

from __future__ import annotations

from typing import Any, Literal

from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
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


class Choice(BaseModel):
    """The chosen color."""

    color: Literal["red", "green"]


def chat(url: str, **more: Any) -> BaseChatModel:
    return ChatOpenAI(model=MODEL, base_url=url, api_key=KEY, max_retries=0, **more)


def messages(url: str) -> BaseChatModel:
    return ChatAnthropic(model=MODEL, base_url=without_version(url), api_key=KEY, max_retries=0)


class Features:
    def chat_agent(self) -> None:
        """chat: an agent calls a tool, executes it, and answers"""
        _loop(chat(SCRIPTED))

    def chat_streamed(self) -> None:
        """chat: the same, streamed"""
        _loop_streamed(chat(SCRIPTED))

    def chat_structured(self) -> None:
        """chat: an agent's response_format, without tools"""
        agent = create_agent(
            chat(URL, max_tokens=200, temperature=0), response_format=ProviderStrategy(Choice)
        )
        assert agent.invoke(_asked())["structured_response"].color in COLORS

    def responses_agent(self) -> None:
        """responses: an agent calls a tool, executes it, and answers"""
        _loop(chat(SCRIPTED, use_responses_api=True))

    def responses_streamed(self) -> None:
        """responses: the same, streamed"""
        _loop_streamed(chat(SCRIPTED, use_responses_api=True))

    def responses_continued(self) -> None:
        """responses: the loop goes on with previous_response_id"""
        _loop(chat(SCRIPTED, use_responses_api=True, use_previous_response_id=True))

    def messages_agent(self) -> None:
        """messages: an agent calls a tool, executes it, and answers"""
        _loop(messages(SCRIPTED))

    def messages_streamed(self) -> None:
        """messages: the same, streamed"""
        _loop_streamed(messages(SCRIPTED))


def _asked() -> Any:
    return {"messages": [{"role": "user", "content": 'Reply with {"color": "red"}'}]}


def _agent(model: BaseChatModel) -> tuple[Any, list[str]]:
    picked: list[str] = []

    @tool
    def pick(color: Literal["red", "green"]) -> str:
        """Pick a color."""
        picked.append(color)
        return "picked"

    return create_agent(model, tools=[pick], system_prompt="Be brief."), picked


def _loop(model: BaseChatModel) -> None:
    agent, picked = _agent(model)
    last = agent.invoke(_asked())["messages"][-1]
    assert last.text == SAID
    assert picked == [PICKED]
    assert last.usage_metadata["output_tokens"] > 3


def _loop_streamed(model: BaseChatModel) -> None:
    agent, picked = _agent(model)
    pieces = [piece.text for piece, _ in agent.stream(_asked(), stream_mode="messages") if piece.text]
    assert "".join(pieces).endswith(SAID)
    assert picked == [PICKED]
    assert len(pieces) > 5


run(Features())
