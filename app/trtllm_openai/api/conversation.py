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
from trtllm_openai.api.guides import check_guide, check_tool_schemas, find_guide, schema_guide
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
    """`prompt` is the text that the model continues, `token_ids` its tokens.

    `continued`: the end of the prompt, if the answer continues the last message. `markers`: special tokens
    whose text the output parser needs.
    """

    model: LoadedModel
    prompt: str
    token_ids: list[int]
    tools: ToolPlan
    guide: Guide | None
    markers: frozenset[int]
    salt: str | None
    """That of its cache entries (`api.prefixes`)."""
    continued: str | None = None

    def make_parser(self) -> ChatOutput | None:
        """The parser of one choice's reasoning and tool calls; None if it can only be plain text."""
        return self.model.chat.output(
            self.prompt, self.tools, guided=self.guide is not None, continued=self.continued
        )


async def prepare(
    model: LoadedModel, body: ChatRequest, max_tokens: int | None, salt: str | None, size: int
) -> Conversation:
    """Render and tokenize a conversation; in a thread if it takes long. Raises `InvalidRequest`.

    `salt`: that of `api.prefixes`. `size`: of the body in bytes.
    """
    planned = None
    if size < PREPARE_OFF_LOOP:
        with contextlib.suppress(LongRendering):
            planned = _plan(model, body, STEPS_ON_LOOP)
    if planned is None:
        planned = await asyncio.to_thread(_plan, model, body, None)
    tools, guide, prompt = planned
    special = bool(body.add_special_tokens)
    token_ids = await encode(model, prompt.text, "messages", add_special_tokens=special, salt=salt)
    token_ids = truncated(body, model.info, token_ids, max_tokens)
    return Conversation(model, prompt.text, token_ids, tools, guide, prompt.markers, salt, prompt.continued)


def _plan(model: LoadedModel, body: ChatRequest, steps: int | None) -> tuple[ToolPlan, Guide | None, Prompt]:
    """The tools, the guide and the prompt."""
    tools = plan_tools(body.tools, body.tool_choice, body.parallel_tool_calls)
    if tools.tools and model.chat.tools is None and tools.schema is None:
        raise InvalidRequest(
            "Tool calls are disabled on this server: its tool_parser is none.",
            "tools",
            "unsupported_parameter",
        )
    if tools.schema is not None:
        check_tool_schemas(body.tools or [], tools.names)
    guide = find_guide(body, model.info, body.response_format)
    if tools.schema is not None:
        if guide is not None:
            raise InvalidRequest(
                f"{guide.param} cannot be combined with a tool_choice that requires a call.", guide.param
            )
        # What is wrong with the whole of it is wrong with the tool, if there is only one.
        param = tools.origins[0][1] if len(tools.origins) == 1 else "tools"
        guide = schema_guide(tools.schema, param, tools.origins)
        check_guide(model.info, guide)
    return tools, guide, render(model, body, tools, steps)


def render(model: LoadedModel, body: ChatRequest, tools: ToolPlan, steps: int | None) -> Prompt:
    """The prompt. Raises `InvalidRequest`, and `LongRendering` after so many `steps`."""
    variables: dict[str, Any] = {}
    if body.reasoning_effort is not None:
        variables["reasoning_effort"] = body.reasoning_effort
        if body.reasoning_effort == "none":
            variables["enable_thinking"] = False
    if body.documents:
        if not model.chat.knows_documents:
            raise InvalidRequest(
                "'documents' is not supported: the model's chat template does not read them.",
                "documents",
                "unsupported_parameter",
            )
        variables["documents"] = body.documents
    variables.update(body.chat_template_kwargs or {})
    continued = bool(body.continue_final_message)
    if continued and body.add_generation_prompt:
        raise InvalidRequest(
            "add_generation_prompt and continue_final_message are mutually exclusive.",
            "continue_final_message",
        )
    return model.chat.render(
        body.messages,
        tools,
        variables,
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
