"""A conversation prepared for the pool: rendered, tokenized, with its tools and its structured output.

Shared by `/v1/chat/completions`, `/v1/responses`, rendering and tokenizing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from trtllm_openai.api.context import LoadedModel
from trtllm_openai.api.forms import AnswerForm, answer_form
from trtllm_openai.api.guides import check_tool_schemas
from trtllm_openai.api.held_tools import Strictness
from trtllm_openai.api.sampling import truncated
from trtllm_openai.chat import Prompt, ToolPlan, plan_tools
from trtllm_openai.chat.parsers import ChatOutput
from trtllm_openai.chat.sandbox import LongRendering
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Guide
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.text.tokenizer import Tokenizer

TOKENIZE_OFF_LOOP = 4096
"""Characters from which tokenizing takes long enough (over a millisecond) to leave the event loop."""
PREPARE_OFF_LOOP = 8192
"""Bytes of a body from which all of its preparation leaves the event loop: schemas, tools, rendering."""
STEPS_ON_LOOP = 2000
"""Steps of a chat template, of some microseconds each, after which the rendering leaves the event loop."""

T = TypeVar("T")


async def off_loop(size: int, work: Callable[[], T]) -> T:
    """Do `work` for a request of `size` bytes: in a thread if it is large."""
    return work() if size < PREPARE_OFF_LOOP else await asyncio.to_thread(work)


@dataclass(frozen=True, slots=True)
class Conversation:
    """`prompt` is what the model continues, `token_ids` its tokens. `show_reasoning`: in the answer."""

    model: LoadedModel
    prompt: Prompt
    token_ids: list[int]
    tools: ToolPlan
    salt: str | None
    """That of its cache entries (`api.prefixes`)."""
    form: AnswerForm
    show_reasoning: bool = True

    @property
    def guide(self) -> Guide | None:
        """The constraint on the answer; None if it is free."""
        return self.form.guide

    def make_parser(self) -> ChatOutput | None:
        """The parser of one choice's reasoning and tool calls; None if it can only be plain text."""
        return self.model.chat.output(
            self.prompt,
            self.tools,
            guided=self.form.demanded,
            own_calls=self.form.own_calls,
            show_reasoning=self.show_reasoning,
        )


async def prepare(
    model: LoadedModel,
    body: ChatRequest,
    max_tokens: int | None,
    salt: str | None,
    size: int,
    strictness: Strictness = "auto",
) -> Conversation:
    """Render and tokenize a conversation; in a thread if it takes long. Raises `InvalidRequest`.

    `salt`: that of `api.prefixes`. `size`: of the body in bytes. `strictness`: the setting `tool_strict`.
    """
    planned = None
    if size < PREPARE_OFF_LOOP:
        with contextlib.suppress(LongRendering):
            planned = _plan(model, body, strictness, STEPS_ON_LOOP)
    if planned is None:
        planned = await asyncio.to_thread(_plan, model, body, strictness, None)
    tools, form, prompt = planned
    special = bool(body.add_special_tokens)
    token_ids = await encode(model, prompt.text, "messages", add_special_tokens=special, salt=salt)
    token_ids = truncated(body, model.info, token_ids, max_tokens)
    show_reasoning = body.include_reasoning is not False
    return Conversation(model, prompt, token_ids, tools, salt, form, show_reasoning)


def _plan(
    model: LoadedModel, body: ChatRequest, strictness: Strictness, steps: int | None
) -> tuple[ToolPlan, AnswerForm, Prompt]:
    """The tools, the form of the answer and the prompt."""
    tools = plan_tools(body.tools, body.tool_choice, body.parallel_tool_calls)
    if tools.tools and model.chat.tools is None and tools.schema is None:
        raise InvalidRequest(
            "Tool calls are disabled on this server: its tool_parser is none.",
            "tools",
            "unsupported_parameter",
        )
    if tools.schema is not None:
        check_tool_schemas(body.tools or [], tools.names)
    prompt = render(model, body, tools, steps)
    return tools, answer_form(body, model.info, model.chat, tools, prompt.thinking, strictness), prompt


def template_variables(model: LoadedModel, body: ChatRequest) -> dict[str, Any]:
    """The chat template's variables; the client's own `chat_template_kwargs` win. Raises `InvalidRequest`."""
    variables: dict[str, Any] = {}
    if body.reasoning_effort is not None:
        variables["reasoning_effort"] = body.reasoning_effort
        variables["enable_thinking"] = body.reasoning_effort != "none"
    if body.documents:
        if not model.chat.knows_documents:
            raise InvalidRequest(
                "'documents' is not supported: the model's chat template does not read them.",
                "documents",
                "unsupported_parameter",
            )
        variables["documents"] = body.documents
    return {**variables, **(body.chat_template_kwargs or {})}


def render(model: LoadedModel, body: ChatRequest, tools: ToolPlan, steps: int | None) -> Prompt:
    """The prompt. Raises `InvalidRequest`, and `LongRendering` after so many `steps`."""
    continued = bool(body.continue_final_message)
    if continued and body.add_generation_prompt:
        raise InvalidRequest(
            "add_generation_prompt and continue_final_message are mutually exclusive.",
            "continue_final_message",
        )
    return model.chat.render(
        body.messages,
        tools,
        template_variables(model, body),
        add_generation_prompt=body.add_generation_prompt is not False,
        continue_final_message=continued,
        steps=steps,
    )


async def encode(
    model: LoadedModel, text: str, param: str, *, add_special_tokens: bool, salt: str | None
) -> list[int]:
    """Token ids of `text`; a long text is tokenized in a thread.

    `salt`: that of `api.prefixes`. Raises `InvalidRequest` naming `param`.
    """
    work = partial(
        encode_all, model.tokenizer, [text], param, add_special_tokens=add_special_tokens, salt=salt
    )
    (ids,) = work() if len(text) < TOKENIZE_OFF_LOOP else await asyncio.to_thread(work)
    return ids


def encode_all(
    tokenizer: Tokenizer, texts: list[str], param: str, *, add_special_tokens: bool, salt: str | None
) -> list[list[int]]:
    """Token ids of each text. Raises `InvalidRequest` naming `param` for one that the tokenizer fails on."""
    try:
        return [tokenizer.encode(text, add_special_tokens=add_special_tokens, salt=salt) for text in texts]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        raise InvalidRequest(f"The model's tokenizer fails on this text: {error}"[:500], param) from None
