"""The names that the parameters of the equivalent chat request have in `/v1/responses`, for its errors.

A chat's `messages[3].content` is `input[5].output` where item 5 is what a function returned; its
`response_format.json_schema.schema.type` is `text.format.schema.type`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from trtllm_openai.api.errors import ApiError, from_exception
from trtllm_openai.protocol.responses import ResponsesRequest

_NAMES = {
    "messages": "input",
    "prompt": "input",
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "truncate_prompt_tokens": "truncation",
}
_FORM = "response_format.json_schema"
_NAME = re.compile(
    r"(?<![\w.\[])(?:(?P<list>messages|tools)\[(?P<index>\d+)\](?P<inner>\.content|\.function)?"
    rf"|{re.escape(_FORM)}|{'|'.join(_NAMES)}(?=['.,:; ]|\[|$))"
)
"""A chat parameter at the beginning of a path, in a path or in the text of a message."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message comes from: the JSON path of its item, and the name of what became its content."""

    json_path: str
    content: str = "content"


OUTPUT_LIMITS = ("max_output_tokens", "max_completion_tokens", "max_tokens")
"""The fields that bound an answer; the first that is given counts."""


def output_limit(body: ResponsesRequest) -> tuple[str, int | None]:
    """The bound of an answer in tokens, and the field in which the client wrote it."""
    given = ((name, getattr(body, name)) for name in OUTPUT_LIMITS)
    return next(((name, limit) for name, limit in given if limit is not None), (OUTPUT_LIMITS[0], None))


@dataclass(frozen=True, slots=True)
class Names:
    """`messages`: the origin of each message; `tools`: the JSON path of each tool.

    `limit`: the field that bounds the answer.
    """

    messages: Sequence[Origin] = ()
    tools: Sequence[str] = field(default=())
    limit: str = OUTPUT_LIMITS[0]

    def renamed(self, param: str | None) -> str | None:
        """The name here of a parameter of the chat request."""
        return _NAME.sub(self._name, param, count=1) if param is not None else None

    def error(self, error: Exception) -> ApiError:
        """The error of the chat request as one of this endpoint."""
        fault = from_exception(error)
        if fault.param is None or fault.status >= 500:
            return fault
        return ApiError(
            fault.status,
            _NAME.sub(self._name_in_text, fault.message),
            param=self.renamed(fault.param),
            code=fault.code,
            headers=fault.headers,
        )

    def _name_in_text(self, found: re.Match[str]) -> str:
        """As `_name`, but for words that a sentence uses as such: "the messages"."""
        word = found[0]
        return word if word in ("messages", "prompt") else self._name(found)

    def _name(self, found: re.Match[str]) -> str:
        if found["list"] is None:
            if found[0] == "max_completion_tokens":
                return self.limit
            return "text.format" if found[0] == _FORM else _NAMES[found[0]]
        index = int(found["index"])
        inner = found["inner"] or ""
        if found["list"] == "tools":
            return (
                self.tools[index] + inner.removeprefix(".function") if index < len(self.tools) else found[0]
            )
        if index >= len(self.messages):
            return "input"
        origin = self.messages[index]
        return origin.json_path + (f".{origin.content}" if inner == ".content" else inner)
