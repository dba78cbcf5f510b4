"""A conversation prepared for the pool: rendered, tokenized, with its tools and its structured output.

Shared by `/v1/chat/completions`, `/v1/responses`, rendering and tokenizing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from trtllm_openai.api.context import LoadedModel
from trtllm_openai.api.guides import check_guide, find_guide, schema_guide
from trtllm_openai.api.sampling import truncated
from trtllm_openai.chat import ToolPlan, plan_tools
from trtllm_openai.chat.parsers import ChatOutput
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Guide
from trtllm_openai.protocol.chat import ChatRequest

TOKENIZE_OFF_LOOP = 4096
"""Characters from which tokenizing takes long enough (over a millisecond) to leave the event loop."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """`prompt` is the text that the model continues, `token_ids` its tokens.

    `markers`: special tokens whose text the output parser needs.
    """

    model: LoadedModel
    prompt: str
    token_ids: list[int]
    tools: ToolPlan
    guide: Guide | None
    markers: frozenset[int]

    def make_parser(self) -> ChatOutput | None:
        """The parser of one answer's reasoning and tool calls; None when it can only be plain text."""
        return self.model.chat.output(self.prompt, self.tools, guided=self.guide is not None)


async def prepare(model: LoadedModel, body: ChatRequest, max_tokens: int | None) -> Conversation:
    """Render and tokenize a conversation. Raises `InvalidRequest`."""
    tools = plan_tools(body.tools, body.tool_choice, body.parallel_tool_calls)
    if tools.tools and model.chat.tools is None and tools.schema is None:
        raise InvalidRequest(
            "This server reads no tool calls: its tool_parser is none.", "tools", "unsupported_parameter"
        )
    guide = find_guide(body, model.info, body.response_format)
    if tools.schema is not None:
        if guide is not None:
            raise InvalidRequest(
                f"{guide.param} cannot be combined with a tool_choice that demands a call.", guide.param
            )
        guide = schema_guide(tools.schema, "tools")
        check_guide(model.info, guide)
    prompt, markers = render(model, body, tools)
    special = bool(body.add_special_tokens)
    token_ids = await encode(model, prompt, add_special_tokens=special, salt=body.cache_salt)
    token_ids = truncated(body, model.info, token_ids, max_tokens)
    return Conversation(model, prompt, token_ids, tools, guide, markers)


def render(model: LoadedModel, body: ChatRequest, tools: ToolPlan) -> tuple[str, frozenset[int]]:
    """The prompt, and the special tokens whose text its output parser needs. Raises `InvalidRequest`."""
    variables: dict[str, Any] = {}
    if body.reasoning_effort is not None:
        variables["reasoning_effort"] = body.reasoning_effort
        if body.reasoning_effort == "none":
            variables["enable_thinking"] = False
    variables.update(body.chat_template_kwargs or {})
    continued = bool(body.continue_final_message)
    if continued and body.add_generation_prompt:
        raise InvalidRequest(
            "add_generation_prompt and continue_final_message exclude each other.", "continue_final_message"
        )
    return model.chat.render_with_markers(
        body.messages,
        tools,
        variables,
        add_generation_prompt=body.add_generation_prompt is not False,
        continue_final_message=continued,
    )


async def encode(
    model: LoadedModel, text: str, *, add_special_tokens: bool, salt: str | None = None
) -> list[int]:
    """Token ids of `text`; a long text is tokenized in a thread."""
    work = partial(model.tokenizer.encode, text, add_special_tokens=add_special_tokens, salt=salt)
    return work() if len(text) < TOKENIZE_OFF_LOOP else await asyncio.to_thread(work)
