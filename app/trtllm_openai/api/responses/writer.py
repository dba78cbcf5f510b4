"""Builds the output items of a response and the typed events of its stream from the same parser events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trtllm_openai.api.responses.compaction import compaction_item
from trtllm_openai.api.responses.custom_input import CustomInput
from trtllm_openai.api.responses.names import output_limit
from trtllm_openai.api.responses.references import item_id
from trtllm_openai.api.responses.tools import WireTool
from trtllm_openai.api.sampling import NOTHING
from trtllm_openai.protocol.common import JsonObject, Usage
from trtllm_openai.protocol.responses import ResponsesRequest
from trtllm_openai.text.events import CallArguments, CallStart, Content, Event, Reasoning

StreamEvent = JsonObject


@dataclass
class ResponseWriter:
    """Applies parser events to `response`, the wire object, which is consistent after every call.

    Methods return the events that a stream sends.
    """

    response: JsonObject
    tools: Mapping[str, WireTool] = field(default_factory=dict)
    """The client's names of the tools, by the model's."""
    _sequence: int = 0
    _text: list[str] = field(default_factory=list)  # pieces of the open item
    _logprobs: list[JsonObject] = field(default_factory=list)
    _custom: CustomInput | None = None
    """Reads the arguments of the open item, if it is a call of a custom tool."""

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
                return [*self._close("completed"), *self._add_item(self._call_item(call_id, name))]
            case CallArguments(_, text):
                if self._custom is not None:
                    return self._custom_delta(self._custom.push(text))
                self._text.append(text)
                return [self._item_event("response.function_call_arguments.delta", delta=text)]

    def finish(self, reason: str, usage: Usage) -> list[StreamEvent]:
        """Complete the response. `reason`: the chat endpoint's finish reason."""
        incomplete = reason == "length"
        events = self._open("message") if not self._output else []
        events += self._close("incomplete" if incomplete else "completed")
        self.response["status"] = "incomplete" if incomplete else "completed"
        self.response["incomplete_details"] = {"reason": "max_output_tokens"} if incomplete else None
        self.response["completed_at"] = None if incomplete else int(time.time())
        self.response["usage"] = response_usage(usage)
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
        events = [*self._close("completed"), *self._add_item(self._item(kind))]
        if kind == "message":
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            events.append(self._item_event("response.content_part.added", content_index=0, part=part))
        return events

    def _add_item(self, item: JsonObject) -> list[StreamEvent]:
        self._text, self._logprobs = [], []
        self._custom = CustomInput() if item["type"] == "custom_tool_call" else None
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
        if item is None or item.get("status") != "in_progress":
            return []
        events = self._custom_delta(self._custom.finish()) if self._custom is not None else []
        text = "".join(self._text)
        item["status"] = status
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
            case "custom_tool_call":
                item["input"] = text
                events.append(self._item_event("response.custom_tool_call_input.done", input=text))
        index = len(self._output) - 1
        return [*events, self._event("response.output_item.done", output_index=index, item=dict(item))]

    def _custom_delta(self, text: str) -> list[StreamEvent]:
        if not text:
            return []
        self._text.append(text)
        return [self._item_event("response.custom_tool_call_input.delta", delta=text)]

    def _item(self, kind: str) -> JsonObject:
        if kind == "message":
            return {
                "id": self._new_id("msg"),
                "type": "message",
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            }
        return {
            "id": self._new_id("rs"),
            "type": "reasoning",
            "status": "in_progress",
            "summary": [],
            "content": [],
        }

    def _call_item(self, call_id: str, name: str) -> JsonObject:
        tool = self.tools.get(name) or WireTool("function", name)
        custom = tool.kind == "custom"
        item = {
            "id": self._new_id("ctc" if custom else "fc"),
            "type": "custom_tool_call" if custom else "function_call",
            "status": "in_progress",
            "call_id": call_id,
            "name": tool.name,
            "input" if custom else "arguments": "",
        }
        return item if tool.namespace is None else {**item, "namespace": tool.namespace}

    def _new_id(self, kind: str) -> str:
        return item_id(kind, self.response["id"], len(self._output))

    def _item_event(self, kind: str, **more: Any) -> StreamEvent:
        """An event about the last output item."""
        index = len(self._output) - 1
        return self._event(kind, item_id=self._output[index]["id"], output_index=index, **more)

    def _event(self, kind: str, **more: Any) -> StreamEvent:
        return {"type": kind, "sequence_number": self.next_number(), **more}

    def _snapshot(self) -> JsonObject:
        return {**self.response, "output": [dict(item) for item in self._output]}


class CompactionWriter(ResponseWriter):
    """Makes one compaction item of the whole text, which is a summary; its stream has no deltas."""

    def __init__(self, response: JsonObject) -> None:
        super().__init__(response)
        self._summary: list[str] = []

    def add(self, event: Event, logprobs: list[JsonObject] | None = None) -> list[StreamEvent]:
        if isinstance(event, Content):
            self._summary.append(event.text)
        return []

    def finish(self, reason: str, usage: Usage) -> list[StreamEvent]:
        item = compaction_item("".join(self._summary).strip(), item_id("cmp", self.response["id"], 0))
        events = self._add_item(item)
        events.append(self._event("response.output_item.done", output_index=0, item=dict(item)))
        return [*events, *super().finish("stop", usage)]  # a summary that was cut is one all the same


def new_response(
    body: ResponsesRequest, response_id: str, model: str, defaults: Mapping[str, float] = NOTHING
) -> JsonObject:
    """The initial response object, before generation. `defaults`: of sampling parameters."""
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
        "temperature": defaults.get("temperature", 1.0) if body.temperature is None else body.temperature,
        "top_p": defaults.get("top_p", 1.0) if body.top_p is None else body.top_p,
        "presence_penalty": body.presence_penalty or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "top_logprobs": body.top_logprobs or 0,
        "tool_choice": body.tool_choice or "auto",
        "tools": [
            _NO_DETAILS | tool if tool.get("type") == "function" else tool for tool in body.tools or []
        ],
        "max_tool_calls": None,
        "max_output_tokens": output_limit(body)[1],
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


def response_usage(usage: Usage) -> JsonObject:
    """Token counts under the names of this endpoint."""
    counts: JsonObject = {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.prompt_tokens_details.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.completion_tokens_details.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
    if usage.timings is not None:
        counts["timings"] = usage.timings.model_dump()
    return counts


_NO_DETAILS: JsonObject = {"description": None, "parameters": None, "strict": None}
"""Fields that the SDK expects of every function."""
