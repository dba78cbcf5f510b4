"""POST /v1/completions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from trtllm_openai.api.bad_words import tokenized
from trtllm_openai.api.body import BODY_SIZE, documented, ignored_params, read_body
from trtllm_openai.api.choice import Choice
from trtllm_openai.api.collect import Answer
from trtllm_openai.api.context import LoadedModel, ServerContext
from trtllm_openai.api.conversation import encode, encode_all, off_loop
from trtllm_openai.api.echo import Echo
from trtllm_openai.api.guides import find_guide
from trtllm_openai.api.ids import new_id
from trtllm_openai.api.logprobs import completion_logprobs
from trtllm_openai.api.middleware import sender_of
from trtllm_openai.api.prefixes import prefix_salt
from trtllm_openai.api.respond import complete, stream
from trtllm_openai.api.sampling import sequence_params, truncated
from trtllm_openai.api.sessions import session_of
from trtllm_openai.api.sse import ChunkFrames
from trtllm_openai.api.stream import UsageOptions
from trtllm_openai.api.submit import GenerationSpec, start_run
from trtllm_openai.api.time_limits import requested_timeout
from trtllm_openai.api.token_fields import TokenFields
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation.build import check_token_ids
from trtllm_openai.protocol.completions import (
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    CompletionResponse,
)
from trtllm_openai.text.choice import TextDelta

router = APIRouter()

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for this endpoint."""


@router.post(
    "/v1/completions", response_model=CompletionResponse, openapi_extra=documented(CompletionRequest)
)
async def create_completion(request: Request) -> Response:
    """Create a completion."""
    started = time.perf_counter()
    context: ServerContext = request.app.state.context
    body = await read_body(request, CompletionRequest)
    context.check_model(body.model)
    n, best_of = _counts(body)
    model = context.loaded(body.model)
    info = model.info
    tenant, record = sender_of(request)
    most_tokens = tenant.limits.max_tokens
    max_tokens = body.max_tokens
    if max_tokens is None:
        max_tokens = min(DEFAULT_MAX_TOKENS, most_tokens or DEFAULT_MAX_TOKENS)
    size = request.scope[BODY_SIZE]
    salt = prefix_salt(request, body.cache_salt)
    texts, prompts = await _prompts(model, body, salt, size)
    prompts = [truncated(body, info, prompt, max_tokens) for prompt in prompts]
    if max_tokens == 0 and not body.echo and body.prompt_logprobs is None:
        raise InvalidRequest("max_tokens must be at least 1 without echo or prompt_logprobs.", "max_tokens")
    logprobs = body.logprobs
    if logprobs is None and best_of > n:
        logprobs = 0  # the best choices are selected by them
    sampling, rules = sequence_params(
        model,
        body,
        [len(prompt) for prompt in prompts],
        max_tokens=max_tokens,
        logprobs=logprobs,
        logprobs_param="logprobs" if body.logprobs is not None else "best_of",
        prompt_param="prompt",
        prompt_logprobs=_prompt_logprobs(body),
        bad_words=tokenized(model.tokenizer, body.bad_words, salt),
        most_tokens=most_tokens,
        clamp=context.settings.limits.clamp_max_tokens,
    )
    usage = UsageOptions.of(body)
    headers = ignored_params(body)
    head: dict[str, Any] = {
        "id": f"cmpl-{new_id()}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model.id,
    }
    spec = GenerationSpec(
        prompts=prompts,
        sampling=sampling,
        started=started,
        n=best_of,
        rules=rules,
        guide=await off_loop(size, partial(find_guide, body, info, body.response_format)),
        priority=body.priority,
        cache_salt=salt,
        session=session_of(request, body) if model.pool.routed else "",
        timeout=requested_timeout(request, body),
        tenant=tenant,
        record=record,
    )
    fields = TokenFields.of(model.tokenizer, body, body.logprobs)
    echoes: list[Echo] = []
    if body.echo:
        whole_texts = texts if body.truncate_prompt_tokens is None else [None] * len(prompts)
        echoes = [Echo.of(model.tokenizer, *pair) for pair in zip(prompts, whole_texts, strict=True)]
    run = start_run(context, model, spec)
    if body.stream:
        form = _Chunks(head, len(run.choices), fields, echoes, include_usage=usage.at_end, each=n)
        return await stream(request, run, form, usage, context.settings.ping_interval, headers)

    def build(answers: list[Answer]) -> CompletionResponse:
        choices: list[CompletionChoice] = []
        for first in range(0, len(answers), best_of):
            echo = echoes[first // best_of] if echoes else None
            for answer in _best(answers[first : first + best_of], n):
                choices.append(_choice(len(choices), answer, fields, echo))
        return CompletionResponse(**head, choices=choices, usage=run.accounting.usage())

    return await complete(request, run, build, headers)


@dataclass(slots=True)
class _Chunks:
    head: dict[str, Any]
    choices: int
    fields: TokenFields
    echoes: Sequence[Echo]
    include_usage: bool = field(kw_only=True)
    each: int = field(kw_only=True)
    """Choices for one prompt."""
    frames: ChunkFrames = field(init=False)

    def __post_init__(self) -> None:
        self.frames = ChunkFrames(self.head, '"text":', "", self.choices, include_usage=self.include_usage)

    def opening(self, choice: Choice) -> bytes:
        of_prompt = self.fields.of_prompt(choice)
        if not self.echoes and not of_prompt:
            return b""
        of_tokens = {**of_prompt, **self.fields.of_delta(TextDelta())}
        if not self.echoes:
            return self._chunk(choice.index, "", of_tokens)
        echo = self._echo(choice)
        if self.fields.logprobs is not None:
            of_tokens["logprobs"] = echo.logprobs(self.fields, choice.prompt_logprobs)
        return self._chunk(choice.index, echo.text, of_tokens)

    def delta(self, choice: Choice, delta: TextDelta) -> bytes:
        if not delta.logprobs and not delta.token_ids:
            return self.frames.text(choice.index, delta.text) if delta.text else b""
        of_tokens = self.fields.of_delta(delta)
        if delta.logprobs:
            shift = len(self._echo(choice).text) if self.echoes else 0
            of_tokens["logprobs"] = completion_logprobs(self.fields, delta, shift)
        return self._chunk(choice.index, delta.text, of_tokens)

    def final(self, index: int, delta: TextDelta) -> dict[str, Any]:
        return {
            "index": index,
            "text": "",
            "logprobs": None,
            "finish_reason": delta.finish_reason,
            "stop_reason": delta.stop_reason,
            **self.fields.of_delta(TextDelta()),
        }

    def _echo(self, choice: Choice) -> Echo:
        return self.echoes[choice.index // self.each]

    def _chunk(self, index: int, text: str, of_tokens: dict[str, Any]) -> bytes:
        return self.frames.choice(
            {"index": index, "text": text, "logprobs": None, "finish_reason": None, **of_tokens}
        )


def _choice(index: int, answer: Answer, fields: TokenFields, echo: Echo | None) -> CompletionChoice:
    delta = answer.delta
    logprobs = None
    if fields.logprobs is not None:
        parts = completion_logprobs(fields, delta, len(echo.text) if echo else 0)
        if echo is not None:
            before = echo.logprobs(fields, answer.choice.prompt_logprobs)
            parts = {key: before[key] + parts[key] for key in parts}
        logprobs = CompletionLogprobs(**parts)
    return CompletionChoice(
        index=index,
        text=(echo.text if echo else "") + delta.text,
        logprobs=logprobs,
        finish_reason=delta.finish_reason or "",
        stop_reason=delta.stop_reason,
        **fields.of_delta(delta),
        **fields.of_prompt(answer.choice),
    )


def _prompt_logprobs(body: CompletionRequest) -> int | None:
    """Alternatives for each token of the prompt: for `prompt_logprobs`, and for `echo` with `logprobs`."""
    wanted = [body.prompt_logprobs, body.logprobs if body.echo else None]
    return max((count for count in wanted if count is not None), default=None)


def _best(answers: list[Answer], n: int) -> list[Answer]:
    """The `n` choices with the highest mean log-probability, best first; unsorted if all are kept."""
    if len(answers) == n:
        return answers

    def mean(answer: Answer) -> float:
        tokens = answer.delta.logprobs or []
        return sum(token.logprob for token in tokens) / max(len(tokens), 1)

    return sorted(answers, key=mean, reverse=True)[:n]


def _counts(body: CompletionRequest) -> tuple[int, int]:
    """Number of choices to return, and to generate."""
    if body.suffix:
        raise InvalidRequest("'suffix' is not supported.", "suffix", "unsupported_parameter")
    n = body.n or 1
    best_of = n if body.best_of is None else body.best_of
    if best_of < n:
        raise InvalidRequest(f"best_of ({best_of}) must not be smaller than n ({n}).", "best_of")
    if best_of > n and body.stream:
        raise InvalidRequest("best_of larger than n cannot be streamed.", "best_of")
    return n, best_of


async def _prompts(
    model: LoadedModel, body: CompletionRequest, salt: str | None, size: int
) -> tuple[list[str | None], list[list[int]]]:
    """The prompts as text (None if given as token ids) and as token ids. `size`: of the body in bytes."""
    prompt = body.prompt
    special = body.add_special_tokens is not False
    if isinstance(prompt, str):
        return [prompt], [await encode(model, prompt, "prompt", add_special_tokens=special, salt=salt)]
    if not prompt:
        raise InvalidRequest("prompt must not be an empty list.", "prompt")
    first = prompt[0]  # all are of its type, as the request model has checked
    if isinstance(first, str):
        texts = cast(list[str], prompt)
        work = partial(encode_all, model.tokenizer, texts, "prompt", add_special_tokens=special, salt=salt)
        return list(texts), await off_loop(size, work)
    ids = cast(list[list[int]], prompt) if isinstance(first, list) else [cast(list[int], prompt)]
    for one in ids:
        check_token_ids(model.info, one, "prompt")
    return [None] * len(ids), ids
