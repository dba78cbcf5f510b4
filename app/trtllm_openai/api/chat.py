"""POST /v1/chat/completions, and /v1/chat/completions/render, which returns the prompt only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from trtllm_openai.api.bad_words import tokenized
from trtllm_openai.api.body import BODY_SIZE, documented, ignored_params, read_body
from trtllm_openai.api.choice import Choice
from trtllm_openai.api.collect import Answer
from trtllm_openai.api.context import LoadedModel, ServerContext
from trtllm_openai.api.conversation import Conversation, prepare
from trtllm_openai.api.echo import echoed_message
from trtllm_openai.api.ids import new_id
from trtllm_openai.api.logprobs import chat_logprobs
from trtllm_openai.api.middleware import sender_of
from trtllm_openai.api.prediction import predicted_tokens
from trtllm_openai.api.prefixes import prefix_salt
from trtllm_openai.api.respond import complete, stream
from trtllm_openai.api.run import RequestRun
from trtllm_openai.api.sampling import sequence_params
from trtllm_openai.api.sessions import session_of
from trtllm_openai.api.sse import ChunkFrames, json_bytes
from trtllm_openai.api.stream import UsageOptions
from trtllm_openai.api.submit import GenerationSpec, start_run
from trtllm_openai.api.time_limits import requested_timeout
from trtllm_openai.api.token_fields import TokenFields
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.chat import (
    AssistantMessage,
    ChatChoice,
    ChatLogprobs,
    ChatRequest,
    ChatResponse,
    FunctionCall,
    RenderResponse,
    ToolCall,
)
from trtllm_openai.text.choice import TextDelta
from trtllm_openai.text.events import CallArguments, CallStart, Content, Event, Reasoning

router = APIRouter()


@router.post("/v1/chat/completions", response_model=ChatResponse, openapi_extra=documented(ChatRequest))
async def create_chat_completion(request: Request) -> Response:
    """Create a chat completion."""
    started = time.perf_counter()
    context: ServerContext = request.app.state.context
    body = await read_body(request, ChatRequest)
    context.check_model(body.model)
    check_supported(body)
    usage = UsageOptions.of(body)
    model = context.loaded(body.model)
    salt = prefix_salt(request, body.cache_salt)
    names = reasoning_fields(context.settings.reasoning_field)
    strictness = context.settings.tool_strict
    conversation = await prepare(model, body, _max_tokens(body), salt, request.scope[BODY_SIZE], strictness)
    predicted = await predicted_tokens(model, body.prediction, salt)
    hints = ["prediction"] if body.prediction is not None and predicted is None else []
    headers = ignored_params(body, [*conversation.form.left_out, *hints])
    echo = echoed_message(body) if body.echo else []
    run = start_chat(request, body, model, conversation, started, predicted or [])
    fields = TokenFields.of(model.tokenizer, body, _logprobs(body))
    head: dict[str, Any] = {
        "id": f"chatcmpl-{new_id()}",
        "object": "chat.completion.chunk" if body.stream else "chat.completion",
        "created": int(time.time()),
        "model": model.id,
    }
    if body.stream:
        form = ChatChunks(head, len(run.choices), fields, echo, names, include_usage=usage.at_end)
        return await stream(request, run, form, usage, context.settings.ping_interval, headers)

    def build(answers: list[Answer]) -> ChatResponse:
        choices = [chat_choice(answer, fields, echo, names) for answer in answers]
        of_prompt = fields.of_prompt(answers[0].choice)
        return ChatResponse(**head, choices=choices, usage=run.accounting.usage(), **of_prompt)

    return await complete(request, run, build, headers)


@router.post(
    "/v1/chat/completions/render", response_model=RenderResponse, openapi_extra=documented(ChatRequest)
)
async def render_chat_completion(request: Request) -> Response:
    """Return the prompt of a conversation as text and token ids, without generation."""
    context: ServerContext = request.app.state.context
    body = await read_body(request, ChatRequest)
    context.check_model(body.model)
    check_supported(body)
    model = context.loaded(body.model)
    salt = prefix_salt(request, body.cache_salt)
    conversation = await prepare(model, body, _max_tokens(body), salt, request.scope[BODY_SIZE])
    rendered = {
        "prompt": conversation.prompt.text,
        "token_ids": conversation.token_ids,
        "count": len(conversation.token_ids),
        "max_model_len": model.info.max_seq_len,
    }
    return Response(json_bytes(rendered), headers=ignored_params(body), media_type="application/json")


def start_chat(
    request: Request,
    body: ChatRequest,
    model: LoadedModel,
    conversation: Conversation,
    started: float,
    predicted: Sequence[int] = (),
) -> RequestRun:
    """Submit a prepared conversation. `predicted`: the tokens of its `prediction`.

    Raises `InvalidRequest`, `Overloaded` or `PoolError`.
    """
    context: ServerContext = request.app.state.context
    tenant, record = sender_of(request)
    sampling, rules = sequence_params(
        model,
        body,
        [len(conversation.token_ids)],
        markers=conversation.prompt.markers,
        max_tokens=_max_tokens(body),
        logprobs=_logprobs(body),
        logprobs_param="top_logprobs" if body.top_logprobs else "logprobs",
        prompt_param="messages",
        prompt_logprobs=body.prompt_logprobs,
        bad_words=tokenized(model.tokenizer, body.bad_words, conversation.salt),
        most_tokens=tenant.limits.max_tokens,
        clamp=context.settings.limits.clamp_max_tokens,
    )
    spec = GenerationSpec(
        prompts=[conversation.token_ids],
        sampling=sampling,
        started=started,
        n=body.n or 1,
        rules=rules,
        guide=conversation.form.guide,
        priority=body.priority,
        cache_salt=conversation.salt,
        session=session_of(request, body) if model.pool.routed else "",
        timeout=requested_timeout(request, body),
        tenant=tenant,
        record=record,
        make_parser=conversation.make_parser,
        predicted=list(predicted),
    )
    return start_run(context, model, spec)


def check_supported(body: ChatRequest) -> None:
    """Raise `InvalidRequest` for unsupported parameters that would change the response."""
    unsupported = {
        "functions": (body.functions, "use tools"),
        "function_call": (body.function_call not in (None, "none", "auto"), "use tool_choice"),
        "modalities": (body.modalities not in (None, [], ["text"]), "this server generates text"),
        "audio": (body.audio, "this server generates text"),
        "web_search_options": (body.web_search_options is not None, "this server does not search"),
        "chat_template": (body.chat_template is not None, "clients' templates are not evaluated"),
        "prompt_token_ids": (body.prompt_token_ids is not None, "use prompt of /v1/completions"),
    }
    for param, (refused, why) in unsupported.items():
        if refused:
            raise InvalidRequest(f"'{param}' is not supported: {why}.", param, "unsupported_parameter")
    if body.max_tokens == 0:
        raise InvalidRequest("max_tokens must be at least 1.", "max_tokens")


@dataclass(slots=True)
class ChatChunks:
    """The chunks of a streamed chat; implements `api.stream.ChunkFormat`."""

    head: dict[str, Any]
    choices: int
    fields: TokenFields
    echo: Sequence[Content | Reasoning] = ()
    include_usage: bool = field(kw_only=True)
    reasoning_fields: tuple[str, ...] = ("reasoning_content",)
    frames: ChunkFrames = field(init=False)
    _opened: bool = False

    def __post_init__(self) -> None:
        self.frames = ChunkFrames(
            self.head, '"delta":{"content":', "}", self.choices, include_usage=self.include_usage
        )

    def opening(self, choice: Choice) -> bytes:
        of_prompt = {} if self._opened else self.fields.of_prompt(choice)
        self._opened = True
        of_tokens = self.fields.of_delta(TextDelta())
        opening = self._chunk(choice.index, {"role": "assistant", "content": ""}, of_tokens, more=of_prompt)
        echoed = (self._chunk(choice.index, self._event(event), of_tokens) for event in self.echo)
        return opening + b"".join(echoed)

    def delta(self, choice: Choice, delta: TextDelta) -> bytes:
        if not choice.decoder.parsed and not delta.logprobs and delta.token_ids is None:
            return self.frames.text(choice.index, delta.text) if delta.text else b""
        events = delta.events if choice.decoder.parsed else [Content(delta.text)]
        logprobs = chat_logprobs(self.fields, delta.logprobs) if delta.logprobs else None
        if not events and (logprobs is not None or delta.token_ids):
            events = [Content("")]
        # The token fields of a delta go with the first of its events.
        of_tokens = {**({"logprobs": logprobs} if logprobs else {}), **self.fields.of_delta(delta)}
        nothing = self.fields.of_delta(TextDelta())
        return b"".join(
            self._chunk(choice.index, self._event(event), of_tokens if position == 0 else nothing)
            for position, event in enumerate(events)
        )

    def final(self, index: int, delta: TextDelta) -> dict[str, Any]:
        return {
            "index": index,
            "delta": {},
            "logprobs": None,
            "finish_reason": delta.finish_reason,
            "stop_reason": delta.stop_reason,
            **self.fields.of_delta(TextDelta()),
        }

    def _chunk(
        self, index: int, delta: dict[str, Any], of_tokens: dict[str, Any], more: dict[str, Any] | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **of_tokens}
        return self.frames.choice(choice, more)

    def _event(self, event: Event) -> dict[str, Any]:
        match event:
            case Content(text):
                return {"content": text}
            case Reasoning(text):
                return dict.fromkeys(self.reasoning_fields, text)
            case CallStart(index, call_id, name):
                call = {"index": index, "id": call_id, "type": "function"}
                return {"tool_calls": [{**call, "function": {"name": name, "arguments": ""}}]}
            case CallArguments(index, text):
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def reasoning_fields(setting: str) -> tuple[str, ...]:
    """The names under which reasoning is sent, by the setting `reasoning_field`."""
    return ("reasoning_content", "reasoning") if setting == "both" else (setting,)


def chat_choice(
    answer: Answer,
    fields: TokenFields,
    echo: Sequence[Content | Reasoning] = (),
    names: tuple[str, ...] = ("reasoning_content",),
) -> ChatChoice:
    """A complete choice as the response has it, with tool calls, after what is echoed.

    `names`: of the fields that reasoning is sent in.
    """
    delta = answer.delta
    logprobs = None
    if fields.logprobs is not None:
        logprobs = ChatLogprobs(**chat_logprobs(fields, delta.logprobs or []))
    calls = [
        ToolCall(id=call.id, function=FunctionCall(name=call.name, arguments=call.arguments))
        for call in answer.calls
    ]
    content = "".join(event.text for event in echo if isinstance(event, Content)) + answer.content
    reasoning = "".join(event.text for event in echo if isinstance(event, Reasoning)) + answer.reasoning
    message = AssistantMessage(
        role="assistant",
        content=None if calls and not content else content,
        tool_calls=calls or None,
        **dict.fromkeys(names, reasoning or None),
    )
    return ChatChoice(
        index=answer.choice.index,
        message=message,
        logprobs=logprobs,
        finish_reason=delta.finish_reason or "",
        stop_reason=delta.stop_reason,
        **fields.of_delta(delta),
    )


def _max_tokens(body: ChatRequest) -> int | None:
    return body.max_completion_tokens or body.max_tokens


def _logprobs(body: ChatRequest) -> int | None:
    if not body.logprobs:
        if body.top_logprobs:
            raise InvalidRequest("top_logprobs needs logprobs: true.", "top_logprobs")
        return None
    return body.top_logprobs or 0
