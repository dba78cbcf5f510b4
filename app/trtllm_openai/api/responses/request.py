"""A request about a conversation, as the chat request that asks the same, rendered and tokenized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import ValidationError

from trtllm_openai.api.body import BODY_SIZE
from trtllm_openai.api.budget import check_messages, check_tools
from trtllm_openai.api.context import LoadedModel, ServerContext
from trtllm_openai.api.conversation import PREPARE_OFF_LOOP, Conversation, prepare
from trtllm_openai.api.middleware import api_key_name
from trtllm_openai.api.prefixes import prefix_salt
from trtllm_openai.api.responses.compaction import TASK
from trtllm_openai.api.responses.items import Message, Messages, read_items
from trtllm_openai.api.responses.names import OUTPUT_LIMITS, Names, Origin, output_limit
from trtllm_openai.api.responses.references import is_reference, resolved
from trtllm_openai.api.responses.store import ResponseStore
from trtllm_openai.api.responses.tools import ToolSet, read_tool_choice, read_tools
from trtllm_openai.api.sampling import responses_parameters
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.common import JsonObject
from trtllm_openai.protocol.responses import (
    CompactRequest,
    CountedFields,
    InputTokensRequest,
    ResponsesRequest,
)

Body = ResponsesRequest | InputTokensRequest | CompactRequest

_PASSED = (
    "stop",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "structured_outputs",
    "thinking_token_budget",
    "tool_strict",
)
"""Fields of a chat request that have the same name and meaning here."""
_REASONING = {"effort", "summary", "generate_summary"}
"""Reasoning is shown as it is, so that a summary of it needs no asking."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """`messages`: the whole conversation without instructions, `own` those of `input`.

    `names`: of the chat request's parameters here. `left_out`: tools and items that are not in the prompt.
    """

    chat: ChatRequest
    model: LoadedModel
    conversation: Conversation
    names: Names
    tools: ToolSet
    messages: list[Message]
    left_out: list[str]
    compacting: bool = False
    """Whether a summary is asked for, by a `compaction_trigger`."""


async def prepare_request(request: Request, body: Body, task: str | None = None) -> Prepared:
    """Read, translate, render and tokenize. `task`: a message of the user after the conversation.

    Raises `ApiError` and `InvalidRequest` with the client's own names.
    """
    context: ServerContext = request.app.state.context
    store: ResponseStore = request.app.state.responses
    limits = context.settings.limits
    _check(body)
    key = api_key_name(request)
    compacting = isinstance(body.input, list) and _is_trigger(body.input[-1:])
    task = TASK if compacting else task
    tools = read_tools(body.tools if isinstance(body, CountedFields) else None)
    check_tools(len(tools.chat), limits)
    before = await _history(store, body.previous_response_id, key)
    items = body.input or []
    if isinstance(items, list):
        items = await resolved(items[:-1] if compacting else items, store, key)
    own = read_items(items)
    messages = before + own.messages
    check_messages(len(messages), limits, "input")
    first = [{"role": "system", "content": body.instructions}] if body.instructions else []
    last = [{"role": "user", "content": task}] if task is not None else []
    limit = output_limit(body)[0] if isinstance(body, ResponsesRequest) else OUTPUT_LIMITS[0]
    names = Names(_origins(first, before, own), tools.json_paths, limit)
    if not messages:
        raise InvalidRequest("'input' must have at least one message.", "input")
    try:
        chat = ChatRequest.model_validate(to_chat(body, [*first, *messages, *last], tools, task))
        model = context.loaded(body.model)
        # The messages of earlier responses are not in the body, so their size is not known.
        known = not before and not (isinstance(body.input, list) and any(map(is_reference, body.input)))
        size = max(request.scope[BODY_SIZE], 0 if known else PREPARE_OFF_LOOP)
        salt = prefix_salt(request, chat.cache_salt)
        strictness = context.settings.tool_strict
        conversation = await prepare(model, chat, chat.max_completion_tokens, salt, size, strictness)
    except (InvalidRequest, ValidationError) as error:
        raise names.error(error) from None
    left_out = [
        *_options_left_out(body),
        *tools.left_out,
        *own.left_out,
        *(names.renamed(name) or name for name in conversation.form.left_out),
    ]
    return Prepared(chat, model, conversation, names, tools, messages, left_out, compacting)


def to_chat(body: Body, messages: Sequence[Message], tools: ToolSet, task: str | None = None) -> JsonObject:
    """The body of the equivalent chat request. Raises `InvalidRequest` for a wrong `tool_choice`.

    With a task of the server's own the answer is plain text, without thinking.
    """
    chat: JsonObject = {"messages": list(messages)}
    if isinstance(body, CountedFields) and task is None:
        effort = (body.reasoning or {}).get("effort")
        chat |= {
            "tools": tools.chat or None,
            "tool_choice": read_tool_choice(body.tool_choice, tools),
            "parallel_tool_calls": body.parallel_tool_calls,
            "response_format": _response_format(body.text or {}),
            "reasoning_effort": effort,
            "truncate_prompt_tokens": -1 if body.truncation == "auto" else None,
            "chat_template_kwargs": body.chat_template_kwargs,
            "documents": body.documents,
            "prompt_cache_key": body.prompt_cache_key,
            "session_id": body.session_id,
        }
    else:
        chat["reasoning_effort"] = "none"
    if isinstance(body, CompactRequest):
        chat["timeout"] = body.timeout
    if isinstance(body, ResponsesRequest):
        chat |= {
            **responses_parameters(body),
            **{name: getattr(body, name) for name in _PASSED},
            "max_completion_tokens": output_limit(body)[1],
            "timeout": body.timeout,
        }
        if body.top_logprobs is not None or "message.output_text.logprobs" in (body.include or ()):
            chat |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    return {key: value for key, value in chat.items() if value is not None}


def _options_left_out(body: Body) -> list[str]:
    """What `text` and `reasoning` ask for that nothing here does, such as `text.verbosity`."""
    if not isinstance(body, CountedFields):
        return []
    given = (("text", body.text, {"format"}), ("reasoning", body.reasoning, _REASONING))
    return [
        f"{name}.{key}"
        for name, options, known in given
        for key, value in (options or {}).items()
        if key not in known and value is not None
    ]


def _is_trigger(items: list[JsonObject]) -> bool:
    return bool(items) and items[0].get("type") == "compaction_trigger"


def _origins(first: list[Message], before: list[Message], own: Messages) -> list[Origin]:
    """Where each message comes from; the last one, a task, is nobody's."""
    return [
        *(Origin("instructions") for _ in first),
        *(Origin("previous_response_id") for _ in before),
        *own.origins,
    ]


def _response_format(text: JsonObject) -> JsonObject | None:
    form = text.get("format")
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": {key: form[key] for key in form if key != "type"}}


async def _history(store: ResponseStore, previous: str | None, key: str) -> list[dict[str, Any]]:
    if previous is None:
        return []
    stored = await store.get(previous, key, "previous_response_id")
    if stored.response["status"] not in ("completed", "incomplete"):
        raise InvalidRequest(
            f"Response '{previous}' is {stored.response['status']}: it cannot be continued.",
            "previous_response_id",
        )
    return stored.messages


def _check(body: Body) -> None:
    if body.conversation is not None:
        raise InvalidRequest(
            "'conversation' is not supported: continue a response by previous_response_id.",
            "conversation",
            "unsupported_parameter",
        )
    if isinstance(body, CountedFields):
        _check_forms(body)
    if isinstance(body, ResponsesRequest):
        if body.prompt is not None:
            raise InvalidRequest(
                "'prompt' is not supported: this server stores no prompts.", "prompt", "unsupported_parameter"
            )
        if body.background and body.stream:
            raise InvalidRequest("background and stream cannot be combined.", "background")
        if body.background and body.store is False:
            raise InvalidRequest("background requires store: true.", "background")


def _check_forms(body: CountedFields) -> None:
    if body.truncation not in (None, "auto", "disabled"):
        raise InvalidRequest("'truncation' must be auto or disabled.", "truncation")
    effort = (body.reasoning or {}).get("effort")
    if effort is not None and not isinstance(effort, str):
        raise InvalidRequest("'reasoning.effort' must be a string.", "reasoning.effort", "invalid_type")
    form = (body.text or {}).get("format")
    if form is not None and not isinstance(form, dict):
        raise InvalidRequest("'text.format' must be an object.", "text.format", "invalid_type")
