"""A conversation as `chat` keeps it: messages, model and parameters, without a terminal or a server."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtllm_openai.errors import InvalidRequest


@dataclass
class Talk:
    """`parameters` are further fields of the request body, as JSON values by name."""

    model: str
    system: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)
    """The turns, from the user's first, without the system message."""

    def body(self) -> dict[str, Any]:
        """The request for the next answer."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {"model": self.model, "messages": [*system, *self.messages], **self.parameters}

    def say(self, role: str, text: str) -> None:
        """Add a turn."""
        self.messages.append({"role": role, "content": text})

    def last_question(self) -> str:
        """The user's last message; empty if there is none."""
        asked = (one["content"] for one in reversed(self.messages) if one["role"] == "user")
        return next(asked, "")

    def take_back(self) -> str:
        """Remove the user's last message and the answer to it; returns the message, or raises."""
        while self.messages:
            turn = self.messages.pop()
            if turn["role"] == "user":
                return turn["content"]
        raise InvalidRequest("Nothing was asked yet.")

    def set_parameters(self, text: str) -> None:
        """`name=value` words; a value is JSON, or else a text, and `null` removes the name."""
        for word in text.split():
            name, equals, value = word.partition("=")
            if not equals or not name:
                raise InvalidRequest(f"{word!r} is not name=value, such as temperature=0.2.")
            try:
                parsed = json.loads(value)
            except ValueError:
                parsed = value
            self.parameters[name] = parsed
            if parsed is None:
                del self.parameters[name]

    def save(self, path: Path) -> None:
        """Write the conversation as JSON. Raises `InvalidRequest`."""
        content = {"system": self.system, "parameters": self.parameters, "messages": self.messages}
        try:
            path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be written: {error.strerror}.") from None

    def load(self, path: Path) -> None:
        """Take the place of this conversation; the model stays. Raises `InvalidRequest`."""
        try:
            content = json.loads(path.read_text("utf-8"))
            messages = [
                {"role": str(one["role"]), "content": str(one["content"])} for one in content["messages"]
            ]
            system, parameters = str(content.get("system", "")), dict(content.get("parameters", {}))
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be read: {error.strerror}.") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InvalidRequest(f"{path} is not a conversation that /save wrote.") from None
        self.messages, self.system, self.parameters = messages, system, parameters
