"""Builds the content blocks of an answer and the events of its stream from the same parser events."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from trtllm_openai.api.ids import new_id
from trtllm_openai.protocol.common import JsonObject, Usage
from trtllm_openai.text.events import CallArguments, CallStart, Content, Event, Reasoning

StreamEvent = JsonObject

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


@dataclass(slots=True)
class MessageWriter:
    """Applies parser events to `message`, the wire object. Methods return the events that a stream sends.

    `thinking_shown` False: thinking blocks have no text (`thinking.display: omitted`).
    """

    message: JsonObject
    thinking_shown: bool = True
    _open: bool = False  # the last block takes more text
    _text: list[str] = field(default_factory=list)  # pieces of the open block

    def begin(self, usage: Usage) -> list[StreamEvent]:
        """The stream's first event. `usage`: of the prompt."""
        start = {**self.message, "content": [], "usage": {**usage_object(usage), "output_tokens": 0}}
        return [{"type": "message_start", "message": start}]

    def add(self, event: Event) -> list[StreamEvent]:
        """Add the next parser event."""
        match event:
            case Content(text):
                return self._grow({"type": "text", "text": ""}, text, "text_delta", "text") if text else []
            case Reasoning(text):
                block = {"type": "thinking", "thinking": "", "signature": ""}
                return self._grow(block, text, "thinking_delta", "thinking") if text else []
            case CallStart(_, call_id, name):
                return self._begin({"type": "tool_use", "id": call_id, "name": name, "input": {}})
            case CallArguments(_, text):
                return self._piece(text, "input_json_delta", "partial_json") if text else []

    def finish(self, reason: str, stop: str | int | None, usage: Usage) -> list[StreamEvent]:
        """Complete the message. `reason`, `stop`: finish reason and stop reason of the chat endpoint."""
        events = [] if self._content else self._begin({"type": "text", "text": ""})
        events += self._close()
        matched = stop if reason == "stop" and isinstance(stop, str) else None
        end = {
            "stop_reason": "stop_sequence" if matched is not None else _STOP_REASONS.get(reason, "end_turn"),
            "stop_sequence": matched,
        }
        self.message |= end
        self.message["usage"] = usage_object(usage)
        delta = {"type": "message_delta", "delta": end, "usage": self.message["usage"]}
        return [*events, delta, {"type": "message_stop"}]

    @property
    def _content(self) -> list[JsonObject]:
        content: list[JsonObject] = self.message["content"]
        return content

    def _grow(self, block: JsonObject, text: str, kind: str, key: str) -> list[StreamEvent]:
        """Add text to the open block if it is of this kind, else to a new one."""
        same = self._open and self._content[-1]["type"] == block["type"]
        return [*([] if same else self._begin(block)), *self._piece(text, kind, key)]

    def _begin(self, block: JsonObject) -> list[StreamEvent]:
        events = self._close()
        self._content.append(block)
        self._open = True
        events.append(self._event("content_block_start", content_block=dict(block)))
        return events if len(self._content) > 1 else [*events, {"type": "ping"}]

    def _piece(self, text: str, kind: str, key: str) -> list[StreamEvent]:
        if kind == "thinking_delta" and not self.thinking_shown:
            return []
        self._text.append(text)
        return [self._event("content_block_delta", delta={"type": kind, key: text})]

    def _close(self) -> list[StreamEvent]:
        """Complete the open block, if there is one."""
        if not self._open:
            return []
        events: list[StreamEvent] = []
        block, text = self._content[-1], "".join(self._text)
        match block["type"]:
            case "text":
                block["text"] = text
            case "thinking":
                signature = _signature(text)
                block |= {"thinking": text, "signature": signature}
                delta = {"type": "signature_delta", "signature": signature}
                events.append(self._event("content_block_delta", delta=delta))
            case "tool_use":
                if not text:
                    events += self._piece("{}", "input_json_delta", "partial_json")
                block["input"] = _arguments(text)
        self._open = False
        self._text = []
        return [*events, self._event("content_block_stop")]

    def _event(self, kind: str, **more: Any) -> StreamEvent:
        """An event about the last block."""
        return {"type": kind, "index": len(self._content) - 1, **more}


def new_message(model: str) -> JsonObject:
    """The message before generation."""
    return {
        "id": f"msg_{new_id()}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": None,
    }


def usage_object(usage: Usage) -> JsonObject:
    """Token counts as Anthropic has them: `input_tokens` are those not found in the prefix cache."""
    cached = usage.prompt_tokens_details.cached_tokens
    counts: JsonObject = {
        "input_tokens": usage.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.completion_tokens_details.reasoning_tokens},
        "service_tier": "standard",
    }
    if usage.timings is not None:
        counts["timings"] = usage.timings.model_dump()
    return counts


def _signature(thinking: str) -> str:
    """Clients keep a signature beside the thinking and send both back; it is not checked."""
    return hashlib.sha256(thinking.encode()).hexdigest()


def _arguments(text: str) -> Any:
    """The arguments of a call; of one that was cut the complete ones, as Anthropic's SDKs read them."""
    try:
        return from_json(text, allow_partial=True) if text else {}
    except ValueError:
        return {}
