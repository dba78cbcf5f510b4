"""The model's chat template, rendered in a sandbox: templates come with the weights and are not trusted.

The Jinja environment has the same filters, globals and extensions as transformers' `apply_chat_template`.
"""

from __future__ import annotations

import datetime
import json
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trtllm_openai.chat.messages import Message
from trtllm_openai.errors import CheckpointError, InvalidRequest


class ChatTemplate:
    """A compiled template with the model's special tokens."""

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        """Raises `CheckpointError` if the template cannot be compiled."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise CheckpointError(f"The chat template cannot be compiled: {error}.") from None
        # A plain dict: each rendering copies the globals, which takes five times as long from a ChainMap.
        self._template.globals = dict(self._template.globals)
        self._special_tokens = special_tokens

    def render(self, messages: list[Message], **variables: Any) -> str:
        """Render the prompt. Raises `InvalidRequest` if the template rejects the messages."""
        try:
            return self._template.render(
                messages=messages,
                **{"add_generation_prompt": True, "tools": None, **self._special_tokens, **variables},
            )
        except jinja2.TemplateError as error:
            raise InvalidRequest(
                f"The model's chat template refuses the conversation: {error.message}", "messages"
            ) from None
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InvalidRequest(
                f"The model's chat template cannot render the conversation: {error}", "messages"
            ) from None


class _GenerationTag(Extension):
    """`{% generation %}` marks assistant text for training. Rendered as its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """`tojson` without the HTML escapes of jinja2's filter."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)
