"""Translates Anthropic's turns and content blocks to chat messages.

A turn may hold several chat messages (results of tools, then text), and turns of one role that follow each
other are one message, as with Anthropic. So positions differ: every block is checked here, by its own path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.common import JsonObject

Message = dict[str, Any]


@dataclass(slots=True)
class Conversation:
    """Chat messages, and the kinds of blocks that were left out of them."""

    messages: list[Message] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)

    @property
    def continues(self) -> bool:
        """Whether the answer continues the last message: it is text of the assistant."""
        last = self.messages[-1]
        return last["role"] == "assistant" and bool(last["content"]) and "tool_calls" not in last

    def add_system(self, content: str | list[JsonObject], json_path: str) -> None:
        """A system prompt: stays in its place, where the cached prefix of the conversation has it."""
        texts = [_text(block, path) for block, path in _blocks(content, json_path)]
        self.messages.append({"role": "system", "content": _content(texts)})

    def add_turn(self, turn: JsonObject, json_path: str) -> None:
        """One of the client's messages. Raises `InvalidRequest` with the JSON path."""
        role, content = turn.get("role"), turn.get("content")
        if not isinstance(content, (str, list)):
            problem = "must be a text or a list of blocks"
            raise InvalidRequest(f"'{json_path}.content' {problem}.", f"{json_path}.content", "invalid_type")
        match role:
            case "user":
                self._add_user(content, f"{json_path}.content")
            case "assistant":
                self._add_assistant(content, f"{json_path}.content")
            case "system":
                self.add_system(content, f"{json_path}.content")
            case _:
                raise InvalidRequest(
                    f"'{json_path}.role' must be user, assistant or system, not {role!r}.",
                    f"{json_path}.role",
                )

    def _add_user(self, content: str | list[JsonObject], json_path: str) -> None:
        before = self._last("user")
        texts: list[str] = [] if before is None else _texts(before)
        for block, path in _blocks(content, json_path):
            if block["type"] != "tool_result":
                texts.append(_text(block, path))
                continue
            if texts:
                self._set_user(texts)
                texts = []
            self.messages.append(
                {
                    "role": "tool",
                    "tool_call_id": _string(block, "tool_use_id", path),
                    "content": _result(block, path),
                }
            )
        if texts or not content:
            self._set_user(texts)

    def _set_user(self, texts: list[str]) -> None:
        message = self._last("user")
        if message is None:
            message = {"role": "user"}
            self.messages.append(message)
        message["content"] = _content(texts)

    def _add_assistant(self, content: str | list[JsonObject], json_path: str) -> None:
        message = self._last("assistant")
        if message is None:
            message = {"role": "assistant", "content": ""}
            self.messages.append(message)
        for block, path in _blocks(content, json_path):
            match block["type"]:
                case "text":
                    message["content"] += _string(block, "text", path)
                case "thinking":
                    thinking = _string(block, "thinking", path)
                    if thinking:
                        message["reasoning_content"] = message.get("reasoning_content", "") + thinking
                case "redacted_thinking":
                    pass  # only Anthropic can read it
                case "tool_use":
                    message.setdefault("tool_calls", []).append(_call(block, path))
                case kind if kind == "server_tool_use" or kind.endswith("_tool_result"):
                    self.left_out.add(kind)  # what Anthropic ran
                case kind:
                    raise _unsupported(kind, path)

    def _last(self, role: str) -> Message | None:
        last = self.messages[-1] if self.messages else None
        return last if last is not None and last["role"] == role else None


def _blocks(content: str | list[Any], json_path: str) -> Iterator[tuple[JsonObject, str]]:
    """The blocks with their JSON paths; a text is one block."""
    if isinstance(content, str):
        yield {"type": "text", "text": content}, json_path
        return
    for index, block in enumerate(content):
        path = f"{json_path}[{index}]"
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise InvalidRequest(f"'{path}' must be an object with a type.", path, "invalid_type")
        yield block, path


def _content(texts: list[str]) -> str | list[JsonObject]:
    """The texts as a message's content, which chat templates get as one text."""
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _texts(message: Message) -> list[str]:
    content = message["content"]
    return [content] if isinstance(content, str) else [part["text"] for part in content]


def _text(block: JsonObject, json_path: str) -> str:
    """The text of a block of the user. Raises `InvalidRequest` for an image and whatever else has none."""
    read = _TEXTS.get(block["type"])
    if read is None:
        raise _unsupported(block["type"], json_path)
    return read(block, json_path)


def _document(block: JsonObject, json_path: str) -> str:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    match source, kind:
        case dict(), "text":
            text = _string(source, "data", f"{json_path}.source")
        case {"content": str() | list() as content}, "content":
            inner = _blocks(content, f"{json_path}.source.content")
            text = "\n".join(_text(one, path) for one, path in inner)
        case _:
            raise InvalidRequest(
                f"'{json_path}.source.type' must be text or content: this model takes text only.",
                f"{json_path}.source.type",
                "unsupported_parameter",
            )
    title = block.get("title")
    return f"{title}\n{text}" if isinstance(title, str) else text


def _search_result(block: JsonObject, json_path: str) -> str:
    content = block.get("content")
    inner = _blocks(content if isinstance(content, list) else [], f"{json_path}.content")
    head = [_string(block, "title", json_path), _string(block, "source", json_path)]
    return "\n".join([*head, *(_text(one, path) for one, path in inner)])


_TEXTS: dict[str, Callable[[JsonObject, str], str]] = {
    "text": lambda block, json_path: _string(block, "text", json_path),
    "document": _document,
    "search_result": _search_result,
    "tool_reference": lambda block, json_path: _string(block, "tool_name", json_path),
}


def _result(block: JsonObject, json_path: str) -> str | list[JsonObject]:
    """The content of a tool's result. Chat has no field for its failure, so the text says it."""
    content = block.get("content")
    if content is None:
        content = ""
    if not isinstance(content, (str, list)):
        path = f"{json_path}.content"
        raise InvalidRequest(f"'{path}' must be a text or a list of blocks.", path, "invalid_type")
    texts = [_text(one, path) for one, path in _blocks(content, f"{json_path}.content")]
    if block.get("is_error") is True:
        texts = [f"Error: {texts[0]}", *texts[1:]] if texts else ["Error"]
    return _content(texts)


def _call(block: JsonObject, json_path: str) -> JsonObject:
    arguments = block.get("input")
    if not isinstance(arguments, dict):
        raise InvalidRequest(f"'{json_path}.input' must be an object.", f"{json_path}.input", "invalid_type")
    function = {"name": _string(block, "name", json_path), "arguments": arguments}
    return {"id": _string(block, "id", json_path), "type": "function", "function": function}


def _string(block: JsonObject, key: str, json_path: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise InvalidRequest(f"'{json_path}.{key}' must be a text.", f"{json_path}.{key}", "invalid_type")
    return value


def _unsupported(kind: str, json_path: str) -> InvalidRequest:
    return InvalidRequest(
        f"'{json_path}' is of the type {kind!r}, but this model takes text only.",
        f"{json_path}.type",
        "unsupported_parameter",
    )
