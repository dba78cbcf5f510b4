"""Submission of a request: the generation spec, admission, one sequence for each choice, the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from trtllm_openai.api.accounting import Accounting
from trtllm_openai.api.choice import Choice
from trtllm_openai.api.context import LoadedModel, ServerContext
from trtllm_openai.api.run import RequestRun
from trtllm_openai.api.time_limits import TimeLimits
from trtllm_openai.errors import Overloaded
from trtllm_openai.generation import DEFAULT_PRIORITY, GenerationRequest, Guide, SamplingParams
from trtllm_openai.runners import NOBODY, Tenant
from trtllm_openai.telemetry.record import RequestRecord
from trtllm_openai.text.choice import PLAIN, ChoiceDecoder, TextRules
from trtllm_openai.text.events import OutputParser


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSpec:
    """Specifies what to generate for a request: `n` choices for each prompt.

    `started`: when the request arrived, by `time.perf_counter`. `timeout`: the client's own timeout in
    seconds from then. `session`: see `api.sessions`. `make_parser` makes the output parser of one choice, or
    None for plain text. `predicted`: what the client expects the answer to be like, as tokens.
    """

    prompts: list[list[int]]
    sampling: list[SamplingParams]
    started: float
    n: int = 1
    rules: TextRules = PLAIN
    guide: Guide | None = None
    priority: float | None = None
    cache_salt: str | None = None
    session: str = ""
    timeout: float | None = None
    tenant: Tenant = NOBODY
    record: RequestRecord = field(default_factory=RequestRecord)
    make_parser: Callable[[], OutputParser | None] = lambda: None
    predicted: list[int] = field(default_factory=list)


def start_run(context: ServerContext, model: LoadedModel, spec: GenerationSpec) -> RequestRun:
    """Submit a request to the pool. With a seed, choice i of a prompt uses seed + i, so that they differ.

    Raises `Overloaded` when admission refuses it and `PoolError` when no runner can take it.
    """
    pool = model.pool
    own_priority = spec.tenant.limits.priority
    priority = DEFAULT_PRIORITY if own_priority is None else own_priority
    limits = TimeLimits.of(context.settings.limits, spec.timeout)
    choices: list[Choice] = []
    for prompt, params in zip(spec.prompts, spec.sampling, strict=True):
        for i in range(spec.n):
            own = (
                params
                if i == 0 or params.seed is None
                else msgspec.structs.replace(params, seed=params.seed + i)
            )
            request = GenerationRequest(
                pool.new_request_id(),
                prompt,
                own,
                priority=spec.priority,
                cache_salt=spec.cache_salt,
                allotted_ms=limits.engine_ms,
                guide=spec.guide,
                adapter=model.adapter,
                key=spec.tenant.name,
                key_priority=priority,
                prediction_token_ids=spec.predicted,
            )
            decoder = ChoiceDecoder(model.tokenizer, spec.rules, spec.make_parser())
            choices.append(Choice(len(choices), request, decoder, i == 0))
    prompt_tokens = sum(map(len, spec.prompts))
    admission = context.admission
    key = context.metrics.of_key(spec.tenant.label) if spec.tenant.label else None
    try:
        ticket = admission.enter(
            spec.tenant.name,
            [len(choice.request.prompt_token_ids) for choice in choices],
            spec.tenant.limits,
            charged=prompt_tokens,
        )
    except Overloaded:
        if key is not None:
            key.rejected.inc()
        raise
    try:
        generation = pool.submit([choice.request for choice in choices], spec.session)
    except BaseException:
        ticket.close()
        raise
    spec.record.model = model.id
    context.metrics.model_requests.labels(model.id).inc()
    context.metrics.prompt_tokens.inc(prompt_tokens)
    context.metrics.prefix_queries.inc(prompt_tokens * spec.n)
    accounting = Accounting(
        context.metrics,
        spec.record,
        ticket,
        choices,
        prompt_tokens=prompt_tokens,
        started=spec.started,
        timed=context.settings.server_timing,
        key=key,
    )
    run = RequestRun(choices, generation, accounting, limits, admission.engine_refusal, context.runs.discard)
    context.runs.add(run)
    return run
