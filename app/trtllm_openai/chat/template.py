"""The model's chat template, rendered in a sandbox: templates come with the weights and are not trusted.

The environment is the one transformers gives templates (`apply_chat_template`), so that every model's
template finds what it was written for.
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
        """Raises `CheckpointError` when the template is not one."""
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
        # They begin as a ChainMap, which each rendering copies at five times the price.
        self._template.globals = dict(self._template.globals)
        self._special_tokens = special_tokens

    def render(self, messages: list[Message], **variables: Any) -> str:
        """The prompt that asks for the next answer. Raises `InvalidRequest` if the template refuses."""
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
    """`{% generation %}` marks what the assistant wrote, for training; here it is only its content."""

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
    """jinja2's own filter escapes HTML, which a prompt is not."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)
