"""What a request wants generated, and its submission: admission, one sequence for each choice, the Job."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from trtllm_openai.api.job import Choice, Job
from trtllm_openai.config import LONGEST_TIMEOUT
from trtllm_openai.generation import GenerationRequest, Guide, SamplingParams
from trtllm_openai.serve.state import InferenceService
from trtllm_openai.telemetry.record import RequestRecord
from trtllm_openai.text.choice import PLAIN, ChoiceDecoder, TextRules
from trtllm_openai.text.events import OutputParser

ENGINE_GRACE = 1.0
"""Seconds that an engine's own limit is later than ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSpec:
    """What a request wants generated: `n` answers for each prompt.

    `started`: when the request arrived, by `time.perf_counter`. `timeout`: seconds it may take from then.
    `make_parser` makes what takes one answer apart.
    """

    prompts: list[list[int]]
    sampling: list[SamplingParams]
    started: float
    n: int = 1
    rules: TextRules = PLAIN
    guide: Guide | None = None
    priority: float | None = None
    cache_salt: str | None = None
    timeout: float | None = None
    key: str = ""
    """Whose request it is."""
    record: RequestRecord = field(default_factory=RequestRecord)
    make_parser: Callable[[], OutputParser | None] = lambda: None


def start_job(service: InferenceService, ask: GenerationSpec) -> Job:
    """Submit it. With a seed, choice i of a prompt uses seed + i, so that they differ."""
    pool = service.pool
    limits = service.settings.limits
    queue_timeout = limits.queue_timeout
    timeout = limits.request_timeout if ask.timeout is None else min(ask.timeout, LONGEST_TIMEOUT)
    # The engine's own limit is a second line: it comes after ours, and ours has the better words.
    allotted_ms = None if timeout is None else round((timeout + ENGINE_GRACE) * 1000)
    choices: list[Choice] = []
    for prompt, params in zip(ask.prompts, ask.sampling, strict=True):
        for i in range(ask.n):
            own = (
                params
                if i == 0 or params.seed is None
                else msgspec.structs.replace(params, seed=params.seed + i)
            )
            request = GenerationRequest(
                pool.new_request_id(),
                prompt,
                own,
                priority=ask.priority,
                cache_salt=ask.cache_salt,
                allotted_ms=allotted_ms,
                guide=ask.guide,
                queue_ms=None if queue_timeout is None else round(queue_timeout * 1000),
            )
            decoder = ChoiceDecoder(service.tokenizer, ask.rules, ask.make_parser())
            choices.append(Choice(len(choices), request, decoder, i == 0))
    ticket = service.admission.enter(ask.key, [len(choice.request.prompt_token_ids) for choice in choices])
    try:
        generation = pool.submit([choice.request for choice in choices])
    except BaseException:
        ticket.close()
        raise
    prompt_tokens = sum(map(len, ask.prompts))
    service.metrics.prompt_tokens.inc(prompt_tokens)
    service.metrics.prefix_queries.inc(prompt_tokens * ask.n)
    arrived = asyncio.get_running_loop().time() - (time.perf_counter() - ask.started)
    job = Job(
        service,
        choices,
        prompt_tokens,
        ask.started,
        generation,
        ticket,
        arrived + (math.inf if timeout is None else timeout),
        arrived + (limits.first_token_timeout or math.inf),
        record=ask.record,
        timed=service.settings.server_timing,
    )
    service.jobs.add(job)
    return job
