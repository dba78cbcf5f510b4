"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.body import documented, ignored_params, read_body
from app.api.extras import extras
from app.api.job import Choice, start_job
from app.api.logprobs import chat_logprobs
from app.api.params import check_model, encode, include_usage, sampling_params, stop_strings
from app.api.respond import stream, whole
from app.api.sse import ChunkFrames
from app.generation import InvalidRequest
from app.protocol.chat import AssistantMessage, ChatChoice, ChatLogprobs, ChatRequest, ChatResponse
from app.service import InferenceService
from app.text.choice import TextDelta
from app.text.tokenizer import Tokenizer

router = APIRouter()


@router.post("/v1/chat/completions", response_model=ChatResponse, openapi_extra=documented(ChatRequest))
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    started = time.perf_counter()
    service: InferenceService = request.app.state.service
    body = await read_body(request, ChatRequest)
    check_model(service, body.model)
    _refuse_unsupported(body)
    info = service.info
    text = service.render_chat(body.messages)
    prompt = await encode(service, text, add_special_tokens=False)
    sampling = sampling_params(
        body,
        info,
        len(prompt),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        logprobs=_logprobs(body),
        logprobs_param="top_logprobs" if body.top_logprobs else "logprobs",
        prompt_param="messages",
    )
    usage = include_usage(body)
    more = extras(body, info, body.response_format)
    headers = ignored_params(body)
    head: dict[str, Any] = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk" if body.stream else "chat.completion",
        "created": int(time.time()),
        "model": service.model_id,
    }
    job = start_job(service, [prompt], [sampling], body.n or 1, stop_strings(body), started, more)
    if body.stream:
        form = _Chunks(head, len(job.choices), service.tokenizer, include_usage=usage)
        return stream(job, form, headers, include_usage=usage)

    def build(deltas: list[TextDelta]) -> ChatResponse:
        choices = [_choice(*pair, service.tokenizer) for pair in zip(job.choices, deltas, strict=True)]
        return ChatResponse(**head, choices=choices, usage=job.usage())

    return await whole(request, job, build, headers)


@dataclass(slots=True)
class _Chunks:
    head: dict[str, Any]
    choices: int
    tokenizer: Tokenizer
    include_usage: bool = field(kw_only=True)
    frames: ChunkFrames = field(init=False)

    def __post_init__(self) -> None:
        self.frames = ChunkFrames(
            self.head, '"delta":{"content":', "}", self.choices, include_usage=self.include_usage
        )

    def opening(self, index: int) -> bytes:
        delta = {"role": "assistant", "content": ""}
        return self.frames.choice({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})

    def with_logprobs(self, choice: Choice, delta: TextDelta) -> dict[str, Any]:
        return {
            "index": choice.index,
            "delta": {"content": delta.text},
            "logprobs": chat_logprobs(self.tokenizer, delta.logprobs or []),
            "finish_reason": None,
        }

    def final(self, index: int, delta: TextDelta) -> dict[str, Any]:
        return {
            "index": index,
            "delta": {},
            "logprobs": None,
            "finish_reason": delta.finish_reason,
            "stop_reason": delta.stop_reason,
        }


def _choice(choice: Choice, delta: TextDelta, tokenizer: Tokenizer) -> ChatChoice:
    logprobs = None
    if choice.request.sampling.logprobs is not None:
        logprobs = ChatLogprobs(**chat_logprobs(tokenizer, delta.logprobs or []))
    return ChatChoice(
        index=choice.index,
        message=AssistantMessage(role="assistant", content=delta.text),
        logprobs=logprobs,
        finish_reason=delta.finish_reason or "",
        stop_reason=delta.stop_reason,
    )


def _logprobs(body: ChatRequest) -> int | None:
    if not body.logprobs:
        if body.top_logprobs:
            raise InvalidRequest("top_logprobs needs logprobs: true.", "top_logprobs")
        return None
    return body.top_logprobs or 0


def _refuse_unsupported(body: ChatRequest) -> None:
    unsupported = {
        "tools": bool(body.tools) and body.tool_choice != "none",
        "functions": bool(body.functions),
        "modalities": body.modalities not in (None, [], ["text"]),
    }
    for param, refused in unsupported.items():
        if refused:
            raise InvalidRequest(f"{param} is not supported.", param, "unsupported_parameter")
