"""Anthropic's Python client, feature by feature."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic

from tests.conformance.features import by_name

TURNS: list[Any] = [{"role": "user", "content": "What is the capital of South Korea?"}]
SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "green"]}},
    "required": ["color"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "web_search_20250305", "name": "web_search"},
    {"name": "pick", "description": "Pick a color.", "input_schema": SCHEMA},
]
COLORS = ("red", "green")


class Features:
    """Each method is a feature of the page, named by its docstring."""

    def __init__(self, url: str, model: str) -> None:
        base = url.removesuffix("/v1")
        self.client = Anthropic(base_url=base, api_key="none", max_retries=0, timeout=120)
        self.model = model
        self.ask: dict[str, Any] = {
            "model": model,
            "messages": TURNS,
            "max_tokens": 30,
            "extra_body": {"temperature": 0},  # no longer a parameter of the client, but of the API
        }

    def models(self) -> None:
        """models"""
        (model,) = self.client.models.list()
        assert (model.id, model.type, model.display_name) == (self.model, "model", self.model)
        assert self.client.models.retrieve(self.model).created_at == model.created_at

    def whole(self) -> None:
        """messages"""
        message = self.client.messages.create(**self.ask, system="Be brief.")
        (block,) = message.content
        assert "Seoul" in block.text
        assert message.stop_reason == "end_turn"
        assert message._request_id
        assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 10

    def stream(self) -> None:
        """messages, streamed"""
        whole = self.client.messages.create(**self.ask)
        with self.client.messages.stream(**self.ask) as stream:
            text = "".join(stream.text_stream)
            final: Any = stream.get_final_message()
        assert final.content[0].text == text == whole.content[0].text
        assert final.stop_reason == whole.stop_reason
        assert final.usage.output_tokens == whole.usage.output_tokens

    def stop(self) -> None:
        """stop_sequences and max_tokens"""
        message = self.client.messages.create(**self.ask, stop_sequences=["South"])
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "South")
        assert "South" not in message.content[0].text
        assert self.client.messages.create(**{**self.ask, "max_tokens": 2}).stop_reason == "max_tokens"
        clamped = self.client.messages.create(**{**self.ask, "max_tokens": 32_000}, stream=True)
        assert [event.type for event in clamped][-1] == "message_stop"

    def tools(self) -> None:
        """tools, any, and their results"""
        choice: Any = {"type": "any", "disable_parallel_tool_use": True}
        body: dict[str, Any] = {**self.ask, "max_tokens": 200, "tools": TOOLS}
        message = self.client.messages.create(**body, tool_choice=choice)
        assert message.stop_reason == "tool_use"
        (call,) = message.content
        assert (call.type, call.name) == ("tool_use", "pick")
        assert call.input["color"] in COLORS
        result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "ok"}]}
        turns = [
            *TURNS,
            {"role": "assistant", "content": message.content},
            {"role": "user", "content": [result]},
        ]
        answer = self.client.messages.create(**{**body, "messages": turns, "max_tokens": 20})
        assert answer.content

    def tools_streamed(self) -> None:
        """tools, streamed"""
        named: Any = {"type": "tool", "name": "pick"}
        body: dict[str, Any] = {**self.ask, "max_tokens": 200, "tools": TOOLS, "tool_choice": named}
        with self.client.messages.stream(**body) as stream:
            pieces = [event.partial_json for event in stream if event.type == "input_json"]
            final: Any = stream.get_final_message()
        (call,) = final.content
        assert len(pieces) > 1
        assert json.loads("".join(pieces)) == call.input
        assert call.input["color"] in COLORS

    def form(self) -> None:
        """output_config.format"""
        form: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
        message = self.client.messages.create(**{**self.ask, "max_tokens": 200}, output_config=form)
        assert json.loads(message.content[0].text)["color"] in COLORS

    def prefill(self) -> None:
        """a last turn of the assistant is continued"""
        turns = [*TURNS, {"role": "assistant", "content": "The capital of South Korea is"}]
        message = self.client.messages.create(**{**self.ask, "messages": turns})
        assert message.content[0].text.lstrip().startswith("Seoul")

    def thinking(self) -> None:
        """thinking, effort, caching, system in place"""
        blocks = [
            {"type": "thinking", "thinking": "An easy one.", "signature": "x"},
            {"type": "text", "text": "Seoul.", "cache_control": {"type": "ephemeral"}},
        ]
        turns = [
            *TURNS,
            {"role": "assistant", "content": blocks},
            {"role": "user", "content": "And of France?"},
            {"role": "system", "content": "Be brief."},
        ]
        options: Any = {
            "thinking": {"type": "adaptive"},
            "output_config": {"effort": "high"},
            "metadata": {"user_id": "u"},
        }
        assert self.client.messages.create(**{**self.ask, "messages": turns}, **options).content

    def count_tokens(self) -> None:
        """count_tokens"""
        body: dict[str, Any] = {"model": self.model, "messages": TURNS, "tools": TOOLS}
        counted = self.client.messages.count_tokens(**body).input_tokens
        usage = self.client.messages.create(**body, max_tokens=1).usage
        assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)

    def errors(self) -> None:
        """errors"""
        for body, kind, name in (
            ({"model": "nobody"}, anthropic.NotFoundError, "not_found_error"),
            ({"extra_body": {"temperature": 9}}, anthropic.BadRequestError, "invalid_request_error"),
            ({"messages": [{"role": "user", "content": "word " * 3000}]}, anthropic.BadRequestError, None),
        ):
            for stream in (False, True):
                with pytest.raises(kind) as caught:
                    self.client.messages.create(**{**self.ask, **body}, stream=stream)
                assert caught.value.type == (name or "invalid_request_error")
                assert caught.value.request_id


@contextmanager
def features(url: str, model: str) -> Iterator[dict[str, Callable[[], None]]]:
    """Every feature by its name."""
    subject = Features(url, model)
    with subject.client:
        yield by_name(subject)
