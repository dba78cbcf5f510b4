"""POST /v1/completions."""

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
from app.api.logprobs import completion_logprobs
from app.api.params import check_model, encode, include_usage, sampling_params, stop_strings
from app.api.respond import stream, whole
from app.api.sse import ChunkFrames
from app.generation import InvalidRequest
from app.generation.build import check_token_ids
from app.protocol.common import MAX_CHOICES
from app.protocol.completions import (
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    CompletionResponse,
)
from app.service import InferenceService
from app.text.choice import TextDelta
from app.text.tokenizer import Tokenizer

router = APIRouter()

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for this endpoint."""


@router.post(
    "/v1/completions", response_model=CompletionResponse, openapi_extra=documented(CompletionRequest)
)
async def create_completion(request: Request) -> Response:
    """Continue a text."""
    started = time.perf_counter()
    service: InferenceService = request.app.state.service
    body = await read_body(request, CompletionRequest)
    check_model(service, body.model)
    _refuse_unsupported(body)
    prompts = await _prompts(service, body)
    n = body.n or 1
    if len(prompts) * n > MAX_CHOICES:
        raise InvalidRequest(f"prompts x n must be at most {MAX_CHOICES}, not {len(prompts) * n}.", "n")
    info = service.info
    sampling = [
        sampling_params(
            body,
            info,
            len(prompt),
            max_tokens=body.max_tokens or DEFAULT_MAX_TOKENS,
            logprobs=body.logprobs,
            logprobs_param="logprobs",
            prompt_param="prompt",
        )
        for prompt in prompts
    ]
    usage = include_usage(body)
    more = extras(body, info)
    headers = ignored_params(body)
    head: dict[str, Any] = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": service.model_id,
    }
    job = start_job(service, prompts, sampling, n, stop_strings(body), started, more)
    if body.stream:
        form = _Chunks(head, len(job.choices), service.tokenizer, include_usage=usage)
        return stream(job, form, headers, include_usage=usage)

    def build(deltas: list[TextDelta]) -> CompletionResponse:
        choices = [_choice(*pair, service.tokenizer) for pair in zip(job.choices, deltas, strict=True)]
        return CompletionResponse(**head, choices=choices, usage=job.usage())

    return await whole(request, job, build, headers)


@dataclass(slots=True)
class _Chunks:
    head: dict[str, Any]
    choices: int
    tokenizer: Tokenizer
    include_usage: bool = field(kw_only=True)
    frames: ChunkFrames = field(init=False)

    def __post_init__(self) -> None:
        self.frames = ChunkFrames(self.head, '"text":', "", self.choices, include_usage=self.include_usage)

    def opening(self, index: int) -> bytes:
        return b""

    def with_logprobs(self, choice: Choice, delta: TextDelta) -> dict[str, Any]:
        logprobs = completion_logprobs(self.tokenizer, delta)
        return {"index": choice.index, "text": delta.text, "logprobs": logprobs, "finish_reason": None}

    def final(self, index: int, delta: TextDelta) -> dict[str, Any]:
        return {
            "index": index,
            "text": "",
            "logprobs": None,
            "finish_reason": delta.finish_reason,
            "stop_reason": delta.stop_reason,
        }


def _choice(choice: Choice, delta: TextDelta, tokenizer: Tokenizer) -> CompletionChoice:
    logprobs = None
    if choice.request.sampling.logprobs is not None:
        logprobs = CompletionLogprobs(**completion_logprobs(tokenizer, delta))
    return CompletionChoice(
        index=choice.index,
        text=delta.text,
        logprobs=logprobs,
        finish_reason=delta.finish_reason or "",
        stop_reason=delta.stop_reason,
    )


def _refuse_unsupported(body: CompletionRequest) -> None:
    unsupported = {
        "suffix": bool(body.suffix),
        "echo": bool(body.echo),
        "best_of": body.best_of is not None and body.best_of != (body.n or 1),
    }
    for param, refused in unsupported.items():
        if refused:
            raise InvalidRequest(f"{param} is not supported.", param, "unsupported_parameter")


async def _prompts(service: InferenceService, body: CompletionRequest) -> list[list[int]]:
    """The prompts as token ids, whichever of the four forms they came in."""
    prompt = body.prompt
    if isinstance(prompt, str):
        return [await encode(service, prompt, add_special_tokens=True)]
    if not prompt:
        raise InvalidRequest("prompt must not be an empty list.", "prompt")
    texts = [item for item in prompt if isinstance(item, str)]
    if texts:
        return [await encode(service, text, add_special_tokens=True) for text in texts]
    lists = [item for item in prompt if isinstance(item, list)]
    ids = lists or [[item for item in prompt if isinstance(item, int)]]
    for one in ids:
        check_token_ids(service.info, one, "prompt")
    return ids
