"""The official Python client, feature by feature."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.conformance.features import by_name

MESSAGES: list[Any] = [{"role": "user", "content": "Say hi."}]
SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "green"]}},
    "required": ["color"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "pick", "parameters": SCHEMA}}]
COLORS = ("red", "green")


class Features:
    """Each method is a feature of the page, named by its docstring."""

    def __init__(self, url: str, model: str) -> None:
        self.client = OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
        self.model = model
        self.chat: dict[str, Any] = {
            "model": model,
            "messages": MESSAGES,
            "temperature": 0,
            "max_tokens": 12,
        }

    def models(self) -> None:
        """models"""
        assert self.client.models.list().data[0].id == self.model
        assert self.client.models.retrieve(self.model).id == self.model

    def plain(self) -> None:
        """chat"""
        (choice,) = self.client.chat.completions.create(**self.chat).choices
        assert choice.message.content
        assert choice.finish_reason in ("stop", "length")

    def stream(self) -> None:
        """chat stream"""
        whole = self.client.chat.completions.create(**self.chat)
        options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(self.client.chat.completions.create(**self.chat, **options))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage

    def abort(self) -> None:
        """abort a stream"""
        with self.client.chat.completions.create(**{**self.chat, "max_tokens": 1000}, stream=True) as stream:
            next(iter(stream))

    def choices(self) -> None:
        """n, seed and logprobs"""
        body: dict[str, Any] = {
            **self.chat,
            "temperature": 1,
            "seed": 4,
            "n": 2,
            "logprobs": True,
            "top_logprobs": 2,
        }
        first, second = (self.client.chat.completions.create(**body) for _ in range(2))
        assert first.choices == second.choices
        assert len(first.choices) == 2
        assert len(first.choices[0].logprobs.content[0].top_logprobs) == 2

    def json_mode(self) -> None:
        """JSON mode"""
        # A small model ends this object soon.
        asked = [{"role": "user", "content": 'Reply with {"ok": true}'}]
        body: dict[str, Any] = {**self.chat, "messages": asked, "max_tokens": 200}
        answer = self.client.chat.completions.create(**body, response_format={"type": "json_object"})
        assert isinstance(json.loads(answer.choices[0].message.content), dict)

    def json_schema(self) -> None:
        """JSON schema"""
        form: Any = {
            "type": "json_schema",
            "json_schema": {"name": "c", "schema": SCHEMA, "strict": True},
        }
        answer = self.client.chat.completions.create(**{**self.chat, "max_tokens": 200}, response_format=form)
        assert json.loads(answer.choices[0].message.content)["color"] in COLORS

    def tools(self) -> None:
        """tools, required"""
        body: dict[str, Any] = {**self.chat, "max_tokens": 200, "tools": TOOLS}
        answer = self.client.chat.completions.create(
            **body, tool_choice="required", parallel_tool_calls=False
        )
        message = answer.choices[0].message
        (call,) = message.tool_calls
        assert json.loads(call.function.arguments)["color"] in COLORS
        result = {"role": "tool", "tool_call_id": call.id, "content": "done"}
        self.client.chat.completions.create(**{**body, "messages": [*MESSAGES, message, result]})

    def tools_streamed(self) -> None:
        """tools, streamed"""
        named = {"type": "function", "function": {"name": "pick"}}
        body: dict[str, Any] = {**self.chat, "max_tokens": 200, "tools": TOOLS, "tool_choice": named}
        with self.client.chat.completions.stream(**body) as stream:
            message = stream.get_final_completion().choices[0].message
        assert json.loads((message.tool_calls or [])[0].function.arguments)["color"] in COLORS

    def completions(self) -> None:
        """completions and stream"""
        body: dict[str, Any] = {"model": self.model, "prompt": "1, 2, 3,", "temperature": 0, "max_tokens": 8}
        whole = self.client.completions.create(**body)
        chunks = self.client.completions.create(**body, stream=True)
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
        echoed = self.client.completions.create(**body, echo=True, logprobs=1).choices[0]
        assert echoed.text == body["prompt"] + whole.choices[0].text
        assert "".join(echoed.logprobs.tokens) == echoed.text

    def errors(self) -> None:
        """errors"""
        for body, kind, code in (
            ({"model": "nobody"}, openai.NotFoundError, "model_not_found"),
            ({"temperature": 9}, openai.BadRequestError, "invalid_value"),
        ):
            with pytest.raises(kind) as caught:
                self.client.chat.completions.create(**{**self.chat, **body})
            assert caught.value.code == code
            assert caught.value.request_id

    def responses(self) -> None:
        """responses"""
        # Answers that end by themselves: the SDK has no final response of one that was cut.
        ask: dict[str, Any] = {
            "model": self.model,
            "temperature": 0,
            "input": "What is the capital of South Korea?",
        }
        first = self.client.responses.create(**ask)
        assert "Seoul" in first.output_text
        with self.client.responses.stream(**ask, previous_response_id=first.id) as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            assert text == stream.get_final_response().output_text
        assert self.client.responses.retrieve(first.id).id == first.id
        self.client.responses.delete(first.id)


@contextmanager
def features(url: str, model: str) -> Iterator[dict[str, Callable[[], None]]]:
    """Every feature by its name."""
    subject = Features(url, model)
    with subject.client:
        yield by_name(subject)
