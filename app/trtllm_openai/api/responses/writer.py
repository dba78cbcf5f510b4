"""Builds the output items of a response and the typed events of its stream from the same parser events."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from trtllm_openai.protocol.common import JsonObject, Usage
from trtllm_openai.protocol.responses import ResponsesRequest
from trtllm_openai.text.events import CallArguments, CallStart, Content, Event, Reasoning

StreamEvent = JsonObject


@dataclass(slots=True)
class ResponseWriter:
    """Applies parser events to `response`, the wire object, which is consistent after every call.

    Methods return the events that a stream sends.
    """

    response: JsonObject
    _sequence: int = 0
    _text: list[str] = field(default_factory=list)  # pieces of the open item
    _logprobs: list[JsonObject] = field(default_factory=list)

    def begin(self) -> list[StreamEvent]:
        """The stream's first events."""
        return [
            self._event("response.created", response=self._snapshot()),
            self._event("response.in_progress", response=self._snapshot()),
        ]

    def add(self, event: Event, logprobs: list[JsonObject] | None = None) -> list[StreamEvent]:
        """Add the next parser event."""
        match event:
            case Content(text):
                events = self._open("message") if text or logprobs else []
                self._logprobs += logprobs or []
                return [*events, *self._grow(text, "response.output_text.delta", logprobs=logprobs or [])]
            case Reasoning(text):
                return [*self._open("reasoning"), *self._grow(text, "response.reasoning_text.delta")]
            case CallStart(_, call_id, name):
                return [*self._close("completed"), *self._add_item(_call_item(call_id, name))]
            case CallArguments(_, text):
                self._text.append(text)
                return [self._item_event("response.function_call_arguments.delta", delta=text)]

    def finish(self, reason: str, usage: Usage) -> list[StreamEvent]:
        """Complete the response. `reason`: the chat endpoint's finish reason."""
        incomplete = reason == "length"
        if not self._output:
            self._open("message")
        events = self._close("incomplete" if incomplete else "completed")
        self.response["status"] = "incomplete" if incomplete else "completed"
        self.response["incomplete_details"] = {"reason": "max_output_tokens"} if incomplete else None
        self.response["completed_at"] = None if incomplete else int(time.time())
        self.response["usage"] = {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.prompt_tokens_details.cached_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.completion_tokens_details.reasoning_tokens},
            "total_tokens": usage.total_tokens,
        }
        if usage.timings is not None:
            self.response["usage"]["timings"] = usage.timings.model_dump()
        return [*events, self._event(f"response.{self.response['status']}", response=self._snapshot())]

    def fail(self, status: str, code: str | None, message: str) -> None:
        """End the response with `status` failed or cancelled."""
        if self._output:
            self._close("incomplete")
        self.response["status"] = status
        self.response["error"] = {"code": code or "server_error", "message": message} if message else None

    def next_number(self) -> int:
        """Allocate the sequence number of the next event."""
        self._sequence += 1
        return self._sequence - 1

    @property
    def _output(self) -> list[JsonObject]:
        output: list[JsonObject] = self.response["output"]
        return output

    def _open(self, kind: str) -> list[StreamEvent]:
        """Ensure that the last output item is open and of this kind."""
        last = self._output[-1] if self._output else None
        if last is not None and last["type"] == kind and last["status"] == "in_progress":
            return []
        events = [*self._close("completed"), *self._add_item(_item(kind))]
        if kind == "message":
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            events.append(self._item_event("response.content_part.added", content_index=0, part=part))
        return events

    def _add_item(self, item: JsonObject) -> list[StreamEvent]:
        self._text, self._logprobs = [], []
        self._output.append(item)
        index = len(self._output) - 1
        return [self._event("response.output_item.added", output_index=index, item=dict(item))]

    def _grow(self, text: str, kind: str, **more: Any) -> list[StreamEvent]:
        if not text and not more.get("logprobs"):
            return []
        self._text.append(text)
        return [self._item_event(kind, content_index=0, delta=text, **more)]

    def _close(self, status: str) -> list[StreamEvent]:
        """Complete the open item, if there is one."""
        item = self._output[-1] if self._output else None
        if item is None or item["status"] != "in_progress":
            return []
        text = "".join(self._text)
        item["status"] = status
        events = []
        match item["type"]:
            case "message":
                part = {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs}
                item["content"] = [part]
                events = [
                    self._item_event(
                        "response.output_text.done", content_index=0, text=text, logprobs=self._logprobs
                    ),
                    self._item_event("response.content_part.done", content_index=0, part=part),
                ]
            case "reasoning":
                item["content"] = [{"type": "reasoning_text", "text": text}]
                events = [self._item_event("response.reasoning_text.done", content_index=0, text=text)]
            case "function_call":
                item["arguments"] = text
                events = [self._item_event("response.function_call_arguments.done", arguments=text)]
        index = len(self._output) - 1
        return [*events, self._event("response.output_item.done", output_index=index, item=dict(item))]

    def _item_event(self, kind: str, **more: Any) -> StreamEvent:
        """An event about the last output item."""
        index = len(self._output) - 1
        return self._event(kind, item_id=self._output[index]["id"], output_index=index, **more)

    def _event(self, kind: str, **more: Any) -> StreamEvent:
        return {"type": kind, "sequence_number": self.next_number(), **more}

    def _snapshot(self) -> JsonObject:
        return {**self.response, "output": [dict(item) for item in self._output]}


def new_response(body: ResponsesRequest, response_id: str, model: str) -> JsonObject:
    """The initial response object, before generation."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "model": model,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "top_logprobs": body.top_logprobs or 0,
        "tool_choice": body.tool_choice or "auto",
        "tools": [
            {"description": None, "parameters": None, "strict": None, **tool} for tool in body.tools or []
        ],
        "max_tool_calls": None,
        "max_output_tokens": body.max_output_tokens,
        "background": bool(body.background),
        "store": body.store is not False,
        "text": {"format": {"type": "text"}, **(body.text or {})},
        "reasoning": {"effort": None, "summary": None, **(body.reasoning or {})},
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
        "service_tier": "default",
        "safety_identifier": body.safety_identifier,
        "prompt_cache_key": body.prompt_cache_key,
    }


def _item(kind: str) -> JsonObject:
    if kind == "message":
        return {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
    return {
        "id": f"rs_{uuid.uuid4().hex}",
        "type": "reasoning",
        "status": "in_progress",
        "summary": [],
        "content": [],
    }


def _call_item(call_id: str, name: str) -> JsonObject:
    return {
        "id": f"fc_{uuid.uuid4().hex}",
        "type": "function_call",
        "status": "in_progress",
        "call_id": call_id,
        "name": name,
        "arguments": "",
    }
