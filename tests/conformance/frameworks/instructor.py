"""Instructor: the modes that its OpenAI and Anthropic clients have for one's own model, and its streams."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import instructor
from anthropic import Anthropic
from instructor import Mode
from openai import OpenAI
from pydantic import BaseModel, ConfigDict

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


class Pick(BaseModel):
    """Pick a color."""

    color: Literal["red", "green"]


class pick(Pick):  # noqa: N801 - the name of the tool that the scripted engine calls
    """Pick a color."""


class Loose(BaseModel):
    """Pick a color."""

    # For modes in which only the prompt asks for a schema: the demo model copies the schema.
    model_config = ConfigDict(extra="allow")

    color: Literal["red", "green"] | None = None


ASKED: list[Any] = [{"role": "user", "content": 'Reply with {"color": "red"} and nothing else.'}]


class Features:
    def __init__(self) -> None:
        self._openai = OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=100)
        self._scripted = OpenAI(base_url=SCRIPTED, api_key=KEY, max_retries=0, timeout=100)
        self._anthropic = Anthropic(base_url=without_version(URL), api_key=KEY, max_retries=0, timeout=100)

    def tools(self) -> None:
        """TOOLS"""
        self._asked(Mode.TOOLS)

    def tools_strict(self) -> None:
        """TOOLS_STRICT"""
        self._asked(Mode.TOOLS_STRICT)

    def parallel_tools(self) -> None:
        """PARALLEL_TOOLS"""
        client = instructor.from_openai(self._scripted, mode=Mode.PARALLEL_TOOLS)
        picks = client.create(response_model=Iterable[pick], **_body())
        assert [one.color for one in picks] == [PICKED]
        second = self._scripted.chat.completions.create(model=MODEL, messages=ASKED)
        assert second.choices[0].message.content == SAID

    def functions(self) -> None:
        """FUNCTIONS"""
        self._asked(Mode.FUNCTIONS)

    def json(self) -> None:
        """JSON"""
        self._asked(Mode.JSON, Loose)

    def json_schema(self) -> None:
        """JSON_SCHEMA"""
        self._asked(Mode.JSON_SCHEMA)

    def markdown(self) -> None:
        """MD_JSON"""
        self._asked(Mode.MD_JSON, Loose)

    def responses(self) -> None:
        """RESPONSES_TOOLS"""
        client = instructor.from_openai(self._openai, mode=Mode.RESPONSES_TOOLS)
        body: dict[str, Any] = {"model": MODEL, "max_output_tokens": 200, "temperature": 0, "max_retries": 0}
        pick = client.responses.create(input=ASKED[0]["content"], response_model=Pick, **body)
        assert pick.color in COLORS

    def partial(self) -> None:
        """TOOLS, a partial object that grows"""
        client = instructor.from_openai(self._openai, mode=Mode.TOOLS)
        *_, last = client.create_partial(response_model=Pick, **_body())
        assert last.color in COLORS

    def many(self) -> None:
        """JSON_SCHEMA, an iterable of objects"""
        client = instructor.from_openai(self._openai, mode=Mode.JSON_SCHEMA)
        picks = list(client.create_iterable(response_model=Pick, **_body()))
        assert {pick.color for pick in picks} <= set(COLORS)

    def completion(self) -> None:
        """TOOLS, with the completion that it came from"""
        client = instructor.from_openai(self._openai, mode=Mode.TOOLS)
        pick, completion = client.create_with_completion(response_model=Pick, **_body())
        assert pick.color in COLORS
        assert completion.usage.completion_tokens > 0

    def anthropic_tools(self) -> None:
        """ANTHROPIC_TOOLS"""
        self._asked_anthropic(Mode.ANTHROPIC_TOOLS)

    def anthropic_json(self) -> None:
        """ANTHROPIC_JSON"""
        self._asked_anthropic(Mode.ANTHROPIC_JSON, Loose)

    def _asked(self, mode: Mode, kind: type[BaseModel] = Pick) -> None:
        client = instructor.from_openai(self._openai, mode=mode)
        _check(client.create(response_model=kind, **_body()))

    def _asked_anthropic(self, mode: Mode, kind: type[BaseModel] = Pick) -> None:
        client = instructor.from_anthropic(self._anthropic, mode=mode)
        body = _body()
        extra = {"temperature": body.pop("temperature")}
        _check(client.create(response_model=kind, extra_body=extra, **body))


def _check(made: BaseModel) -> None:
    assert made.color in COLORS if isinstance(made, Pick) else isinstance(made, Loose)


def _body(**more: Any) -> dict[str, Any]:
    asked = {"model": MODEL, "messages": list(ASKED), "max_tokens": 400, "temperature": 0, "max_retries": 0}
    return {**asked, **more}


run(Features())
