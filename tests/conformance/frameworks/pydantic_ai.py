"""Pydantic AI over the three APIs that this server has: loops with tools, and every kind of output."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

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


class Loose(BaseModel):
    """Pick a color."""

    # The demo model does not follow a schema that only the prompt asks for.
    model_config = ConfigDict(extra="allow")

    color: Literal["red", "green"] | None = None


def chat(url: str) -> Model:
    return OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=url, api_key=KEY))


def responses(url: str) -> Model:
    return OpenAIResponsesModel(MODEL, provider=OpenAIProvider(base_url=url, api_key=KEY))


def messages(url: str) -> Model:
    provider = AnthropicProvider(base_url=without_version(url), api_key=KEY)
    return AnthropicModel(MODEL, provider=provider)


class Features:
    async def chat_loop(self) -> None:
        """chat: a tool is called, executed, and the answer is final"""
        await _loop(chat(SCRIPTED))

    async def chat_streamed(self) -> None:
        """chat: the same, streamed"""
        await _loop_streamed(chat(SCRIPTED))

    async def chat_tool_output(self) -> None:
        """chat: output as a tool's arguments"""
        await _output(chat(URL), ToolOutput(Choice))

    async def chat_native_output(self) -> None:
        """chat: output by response_format"""
        await _output(chat(URL), NativeOutput(Choice))

    async def chat_prompted_output(self) -> None:
        """chat: output by JSON mode and a prompt"""
        await _output(chat(URL), PromptedOutput(Loose), 'Reply with {"ok": true}')

    async def responses_loop(self) -> None:
        """responses: a tool is called, executed, and the answer is final"""
        await _loop(responses(SCRIPTED))

    async def responses_streamed(self) -> None:
        """responses: the same, streamed"""
        await _loop_streamed(responses(SCRIPTED))

    async def responses_tool_output(self) -> None:
        """responses: output as a tool's arguments"""
        await _output(responses(URL), ToolOutput(Choice))

    async def responses_native_output(self) -> None:
        """responses: output by text.format"""
        await _output(responses(URL), NativeOutput(Choice))

    async def messages_loop(self) -> None:
        """messages: a tool is called, executed, and the answer is final"""
        await _loop(messages(SCRIPTED))

    async def messages_streamed(self) -> None:
        """messages: the same, streamed"""
        await _loop_streamed(messages(SCRIPTED))

    async def messages_tool_output(self) -> None:
        """messages: output as a tool's arguments"""
        await _output(messages(URL), ToolOutput(Choice))


def _agent(model: Model) -> tuple[Agent[None, str], list[str]]:
    agent = Agent(model, instructions="Be brief.", retries=0)
    picked: list[str] = []

    @agent.tool_plain
    def pick(color: Literal["red", "green"]) -> str:
        """Pick a color."""
        picked.append(color)
        return "picked"

    return agent, picked


async def _loop(model: Model) -> None:
    agent, picked = _agent(model)
    result = await agent.run("Pick one.")
    assert result.output == SAID
    assert picked == [PICKED]
    assert result.usage.requests == 2
    assert result.usage.input_tokens > result.usage.output_tokens > 5


async def _loop_streamed(model: Model) -> None:
    agent, picked = _agent(model)
    texts: list[str] = []
    async with agent.iter("Pick one.") as steps:
        async for node in steps:
            if Agent.is_model_request_node(node):
                async with node.stream(steps.ctx) as stream:
                    texts.extend([str(event) async for event in stream])
    assert steps.result is not None
    assert steps.result.output == SAID
    assert picked == [PICKED]
    assert len(texts) > 10


async def _output(model: Model, kind: Any, prompt: str = 'Reply with {"color": "red"}') -> None:
    agent = Agent(model, output_type=kind, retries=0, model_settings={"temperature": 0, "max_tokens": 400})
    result = await agent.run(prompt)
    assert (
        result.output.color in COLORS
        if isinstance(result.output, Choice)
        else isinstance(result.output, Loose)
    )


run(Features())
