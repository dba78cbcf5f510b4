"""OpenAI's Agents SDK over both of its APIs: loops with tools, output types, and both together."""

from __future__ import annotations

from typing import Any, Literal

from agents import (
    Agent,
    AsyncOpenAI,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from pydantic import BaseModel

from tests.conformance.frameworks.lines import COLORS, KEY, MODEL, PICKED, SAID, SCRIPTED, URL, run


class Choice(BaseModel):
    color: Literal["red", "green"]


class Features:
    def __init__(self) -> None:
        set_tracing_disabled(True)
        demo = AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=100)
        scripted = AsyncOpenAI(base_url=SCRIPTED, api_key=KEY, max_retries=0, timeout=100)
        self._chat = OpenAIChatCompletionsModel(MODEL, demo)
        self._responses = OpenAIResponsesModel(MODEL, demo)
        self._chat_scripted = OpenAIChatCompletionsModel(MODEL, scripted)
        self._responses_scripted = OpenAIResponsesModel(MODEL, scripted)

    async def chat_loop(self) -> None:
        """chat: a tool is called, executed, and the answer is final"""
        await _loop(self._chat_scripted)

    async def chat_streamed(self) -> None:
        """chat: the same, streamed"""
        await _loop_streamed(self._chat_scripted)

    async def chat_output_type(self) -> None:
        """chat: output_type"""
        await _output_type(self._chat)

    async def chat_tools_and_output_type(self) -> None:
        """chat: tools and output_type together"""
        await _tools_and_output_type(self._chat)

    async def responses_loop(self) -> None:
        """responses: a tool is called, executed, and the answer is final"""
        await _loop(self._responses_scripted)

    async def responses_streamed(self) -> None:
        """responses: the same, streamed"""
        await _loop_streamed(self._responses_scripted)

    async def responses_continued(self) -> None:
        """responses: the loop goes on with previous_response_id"""
        agent, picked = _agent(self._responses_scripted)
        result = await Runner.run(agent, "Pick one.", auto_previous_response_id=True)
        assert result.final_output == SAID
        assert picked == [PICKED]

    async def session(self) -> None:
        """responses: a session keeps the conversation"""
        agent, _ = _agent(self._responses_scripted)
        session = SQLiteSession("conformance")
        await Runner.run(agent, "Pick one.", session=session)
        result = await Runner.run(agent, "And another.", session=session)
        assert result.final_output == SAID
        assert len(await session.get_items()) == 10

    async def responses_output_type(self) -> None:
        """responses: output_type"""
        await _output_type(self._responses)

    async def responses_tools_and_output_type(self) -> None:
        """responses: tools and output_type together"""
        await _tools_and_output_type(self._responses)


def _agent(model: Model, **more: Any) -> tuple[Agent[None], list[str]]:
    """An agent with the tool, and what the tool was called with."""
    picked: list[str] = []

    @function_tool
    def pick(color: Literal["red", "green"]) -> str:
        """Pick a color."""
        picked.append(color)
        return "picked"

    return Agent(name="picker", instructions="Be brief.", model=model, tools=[pick], **more), picked


async def _loop(model: Model) -> None:
    agent, picked = _agent(model)
    result = await Runner.run(agent, "Pick one.")
    assert result.final_output == SAID
    assert picked == [PICKED]
    usage = result.context_wrapper.usage
    assert usage.requests == 2
    assert usage.input_tokens > usage.output_tokens > 5


async def _loop_streamed(model: Model) -> None:
    agent, picked = _agent(model)
    result = Runner.run_streamed(agent, "Pick one.")
    kinds = [
        event.item.type async for event in result.stream_events() if event.type == "run_item_stream_event"
    ]
    assert [kind for kind in kinds if kind.startswith("tool")] == ["tool_call_item", "tool_call_output_item"]
    assert result.final_output == SAID
    assert picked == [PICKED]


async def _output_type(model: Model) -> None:
    agent = Agent(name="chooser", instructions="Choose.", model=model, output_type=Choice)
    result = await Runner.run(agent, "Red or green?")
    assert result.final_output_as(Choice).color in COLORS


async def _tools_and_output_type(model: Model) -> None:
    """A call is demanded in the first turn, and allowed after it, beside the form."""
    settings = ModelSettings(tool_choice="required", temperature=0, max_tokens=100, parallel_tool_calls=False)
    agent, picked = _agent(model, output_type=Choice, model_settings=settings)
    result = await Runner.run(agent, "Pick one.", max_turns=3)
    assert picked
    assert result.final_output_as(Choice).color in COLORS


run(Features())
