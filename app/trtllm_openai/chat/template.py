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

from trtllm_openai.chat.messages import Message
from trtllm_openai.chat.sandbox import BoundedEnvironment, LongRendering, TemplateLimitError, Work
from trtllm_openai.errors import CheckpointError, InvalidRequest
from trtllm_openai.text.tokenizer import SPECIAL_NAMES

PROMPT_LENGTH = 32 << 20
"""Default of `limits.max_prompt_length`."""
MAX_MESSAGE = 500
"""Characters of a template's own error that the client is told."""


class TemplateRefusal(InvalidRequest):
    """The template raised an error about the conversation, whose text is in the message."""


class ChatTemplate:
    """A compiled template with the model's special tokens. Rendering is bounded: see `chat.sandbox`."""

    def __init__(
        self,
        source: str,
        special_tokens: dict[str, str],
        *,
        timeout_s: float = 5.0,
        max_length: int = PROMPT_LENGTH,
        file: str = "",
    ) -> None:
        """`timeout_s` and `max_length` (characters) bound a rendering. `file`: where it is from, for
        messages.

        Raises `CheckpointError` if the template cannot be compiled.
        """
        environment = BoundedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.bound_filter("tojson")
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            line = f", line {error.lineno}," if isinstance(error, jinja2.TemplateSyntaxError) else ""
            where = f" {file}" if file else ""
            raise CheckpointError(
                f"The chat template{where}{line} cannot be compiled: {str(error).rstrip('.')}."
            ) from None
        # A plain dict: each rendering copies the globals, which takes five times as long from a ChainMap.
        self._template.globals = dict(self._template.globals)
        self._environment = environment
        self._special_tokens = special_tokens
        self._timeout_s, self._max_length = timeout_s, max_length
        self.reserved = frozenset({"self", *SPECIAL_NAMES, *special_tokens, *self._template.globals})
        """Names that have a meaning in every template, and that a client cannot set."""

    def render(
        self, messages: list[Message], variables: dict[str, Any] | None = None, *, steps: int | None = None
    ) -> str:
        """Render the prompt. Raises `TemplateRefusal` if the template rejects the messages, else
        `InvalidRequest` if it fails.

        `steps`: instead of the time limit, for a rendering that must not take long: raises `LongRendering`
        after so many iterations of loops and calls of macros.
        """
        given = {"add_generation_prompt": True, "tools": None, **self._special_tokens, **(variables or {})}
        given["messages"] = messages
        work = Work(self._max_length, steps=steps, timeout_s=self._timeout_s)
        try:
            return self._environment.render(self._template, given, work)
        except LongRendering:
            raise
        except TemplateLimitError as error:
            text = f"The model's chat template was stopped: {error.message}."
        except jinja2.TemplateError as error:
            text = f"The model's chat template refuses the conversation: {error.message}"
            raise TemplateRefusal(text[:MAX_MESSAGE], "messages") from None
        except Exception as error:  # whatever the template computes: 1/0, a type error, endless recursion
            text = (
                f"The model's chat template cannot render the conversation: {type(error).__name__}: {error}"
            )
        raise InvalidRequest(text[:MAX_MESSAGE], "messages")


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
