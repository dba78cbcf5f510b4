"""The torch engine: accepts requests and returns one batch of token deltas per step.

If the executor supports overlap, the next step is planned and launched while the previous one still runs, and
tokens are read one step late. A sequence that finished in the meantime has one extra token in flight, which
is discarded.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent import futures
from itertools import chain
from typing import Any

import torch

from trtllm_openai.engines.base import FAILED_ON_REQUEST, refusal
from trtllm_openai.engines.kv_events import KVEvents
from trtllm_openai.engines.torch.block_pool import BlockPool
from trtllm_openai.engines.torch.executor import EagerExecutor, Executor, Step
from trtllm_openai.engines.torch.followers import Followers
from trtllm_openai.engines.torch.guide_compiler import GuideCompiler
from trtllm_openai.engines.torch.guides import TOO_COMPLEX
from trtllm_openai.engines.torch.kv_cache import KVCache
from trtllm_openai.engines.torch.logit_rules import BiasTables, LogitRules
from trtllm_openai.engines.torch.memory import out_of_memory
from trtllm_openai.engines.torch.plan import Limits, Plan
from trtllm_openai.engines.torch.sampler import NO_TOKEN, Sampled, count_token
from trtllm_openai.engines.torch.scheduler import Scheduler
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.engines.torch.speculation.drafter import Drafter
from trtllm_openai.engines.torch.speculation.verification import verified
from trtllm_openai.engines.torch.step_budget import StepBudget
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import EngineInfo, EngineStats, GenerationRequest, StepOutput

log = logging.getLogger(__name__)

EXPIRY_INTERVAL = 0.1
"""Seconds between two checks for expired requests."""
NO_TOKEN_POSSIBLE = "no_token_possible"
"""Error code for a sequence whose sampling parameters or guide mask out every token."""


class TorchEngine:
    """In-flight batching over one model. Implements `engines.base.Engine`."""

    def __init__(
        self,
        info: EngineInfo,
        executor: Executor,
        cache: KVCache,
        limits: Limits,
        guides: GuideCompiler | None = None,
        followers: Followers | None = None,
        kv_events: KVEvents | None = None,
        drafter: Drafter | None = None,
        step_budget: StepBudget | None = None,
    ) -> None:
        self.info = info
        self._executor = executor
        self._cache = cache
        self._device = cache.layers[0].device
        self._bias_tables = BiasTables(self._device)
        self._kv_events = kv_events
        self._pool = BlockPool(info.kv_blocks, kv_events.removed if kv_events is not None else None)
        self._drafter = drafter
        self._step_budget = step_budget
        self._scheduler = Scheduler(limits, self._pool, cache, kv_events, drafter, step_budget)
        self._eos = frozenset(info.eos_token_ids)
        self._guides = guides
        self._followers = followers
        self._live: dict[str, Sequence] = {}
        self._compiling: dict[futures.Future[Any], Sequence] = {}  # waiting for grammar compilation
        self._aborted: list[str] = []
        self._expiry_due = 0.0
        self._flying: Step | None = None  # launched, tokens not read yet
        self._guides_ended: Counter[str] = Counter()  # by reason
        self._stats = EngineStats(kv_blocks_total=info.kv_blocks)

    def submit(self, request: GenerationRequest) -> None:
        self._check(request)
        sequence = Sequence(request)
        sampling = request.sampling
        if LogitRules.needed(sampling):
            sequence.rules = self._rules(request)
        self._live[request.request_id] = sequence
        if request.guide is not None and self._guides is not None:
            self._compiling[self._guides.compile(request.guide)] = sequence
        else:
            self._scheduler.add(sequence)
        self._stats.prompt_tokens += sequence.prompt_tokens

    def _rules(self, request: GenerationRequest) -> LogitRules:
        # With a guide, the guide alone decides where the text may end, unless that is anywhere.
        free = request.guide is None or request.guide.endless
        ends = self._eos.union(request.sampling.stop_token_ids) if free else frozenset()
        try:
            return LogitRules(
                request.sampling,
                request.prompt_token_ids,
                ends,
                self.info.vocab_size,
                self._device,
                self._bias_tables,
            )
        except Exception as error:
            if out_of_memory(error):
                raise
            raise InvalidRequest(f"The sampling parameters cannot be applied: {error}") from error

    def abort(self, request_id: str) -> None:
        if request_id in self._live:
            self._aborted.append(request_id)

    def step(self, timeout: float) -> list[StepOutput]:
        outputs = self._step(timeout)
        if self._kv_events is not None:
            self._kv_events.flush()
        return outputs

    def _step(self, timeout: float) -> list[StepOutput]:
        outputs = self._end_aborted()
        if self._compiling:
            idle = not (outputs or self._scheduler.running or self._scheduler.waiting)
            outputs += self._admit_guided(timeout if idle else 0.0)
        outputs += self._end_expired()
        with torch.inference_mode():
            if self._flying is not None and self._must_land():
                outputs += self._land()
            try:
                plan = self._scheduler.plan_first() or self._scheduler.plan()
            except (
                MemoryError,
                RuntimeError,
            ) as error:  # in swapping, which other ranks do in their own plans
                if self._followers is not None or not out_of_memory(error):
                    raise
                return outputs + self._land() + self._relieve(self._scheduler.last, "swapping KV blocks")
            try:
                launched = self._launch(plan) if plan else None
            except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
                # Other ranks may have run the step; their KV caches would then diverge from this one.
                if self._followers is not None or not out_of_memory(error):
                    raise
                last = plan.prefill[-1].sequence if plan.prefill else plan.decode[-1]
                number = len(plan.decode) + len(plan.prefill)
                return outputs + self._land() + self._relieve(last, f"a step of {number} sequences")
            outputs += self._land()
            if launched is not None:
                outputs += _begun(plan)
            if plan.prefill:
                outputs += self._end_faulty(plan)
            self._flying = launched
            if launched is not None and not self._may_fly(launched):
                outputs += self._land()
        return outputs

    def interrupt_with(self, look: Callable[[], None]) -> None:
        """See `engines.base.Interruptible`. Not on a GPU, whose steps are short, nor with several ranks."""
        executor = self._executor
        if not isinstance(executor, EagerExecutor) or self._followers is not None:
            return

        def between() -> None:
            executor.between = None  # not in the steps that `look` makes
            try:
                with torch.inference_mode(False):
                    look()
            finally:
                executor.between = between

        executor.between = between

    def step_first(self) -> list[StepOutput]:
        outputs: list[StepOutput] = []
        with torch.inference_mode():
            try:
                while plan := self._scheduler.plan_first():
                    step = self._launch(plan)
                    outputs += _begun(plan) + self._end_faulty(plan) + self._read(step)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                log.warning("a prompt that goes first ran out of memory: it is computed with the others")
                self._scheduler.none_first()
        return outputs

    def stats(self) -> EngineStats:
        stats = self._stats
        stats.deferred = len(self._compiling)
        stats.waiting = len(self._scheduler.waiting) + stats.deferred
        stats.running = len(self._scheduler.running)
        stats.kv_blocks_used = self._pool.used
        stats.kv_blocks_reused = self._scheduler.reused
        stats.preemptions = self._scheduler.preemptions
        if self._guides is not None:
            stats.guides_compiled, stats.guides_refused = self._guides.compiled, dict(self._guides.refused)
            stats.guide_cache_hits = self._guides.cache.hits
            stats.guide_cache_misses = self._guides.cache.misses
            stats.guides_ended = dict(self._guides_ended)
            stats.guide_compile_counts = list(self._guides.counts)
            stats.guide_compile_seconds = self._guides.seconds
        if self._drafter is not None:
            self._drafter.count(stats)
        return stats

    def shutdown(self, timeout_s: float) -> None:
        if self._guides is not None:
            self._guides.close()
        self._flying = None
        self._executor.close()
        if self._followers is not None:
            self._followers.end(timeout_s)
        self._live.clear()
        self._cache.layers.clear()
        if self._kv_events is not None:
            self._kv_events.close()

    def _check(self, request: GenerationRequest) -> None:
        prompt = request.prompt_token_ids
        if not prompt:
            raise InvalidRequest("The prompt is empty.", "prompt")
        if request.request_id in self._live:
            raise InvalidRequest(
                f"A request with the id {request.request_id} is already running.", "request_id"
            )
        for token in (min(prompt), max(prompt)):
            if not 0 <= token < self.info.vocab_size:
                raise InvalidRequest(f"Token id {token} is outside of the vocabulary.", "prompt")
        sampling = request.sampling
        for name, tokens in (
            ("logit_bias", sampling.logit_bias or ()),
            ("allowed_token_ids", sampling.allowed_token_ids),
            ("bad_words", tuple(chain.from_iterable(sampling.bad_words))),
            ("prediction", request.prediction_token_ids),
        ):
            for token in tokens:
                if not 0 <= token < self.info.vocab_size:
                    raise InvalidRequest(f"Token id {token} is outside of the vocabulary.", name)
        if request.guide is not None and request.guide.kind not in self.info.capabilities.guides:
            raise InvalidRequest(
                "This engine does not support this kind of guided decoding.",
                request.guide.param,
                "unsupported_parameter",
            )
        total = len(prompt) + sampling.max_tokens
        if total > self.info.max_seq_len:
            raise InvalidRequest(
                f"{total} tokens exceed the limit of {self.info.max_seq_len}.",
                "prompt",
                "context_length_exceeded",
            )

    def _end_aborted(self) -> list[StepOutput]:
        outputs = []
        for request_id in self._aborted:
            sequence = self._live.pop(request_id, None)
            if sequence is not None:
                self._withdraw(sequence)
                outputs.append(StepOutput(request_id, [], "abort"))
        self._aborted.clear()
        return outputs

    def _relieve(self, sequence: Sequence, what: str) -> list[StepOutput]:
        """Recover from `what`, which ran out of memory without effect: fail `sequence`, the last to join."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if self._live.get(sequence.request.request_id) is not sequence:
            return []  # it already finished; its extra token was in flight
        log.error("%s ran out of memory", what)
        output = StepOutput(sequence.request.request_id, [], "error", error="the engine ran out of memory")
        return [self._end(sequence, output)]

    def _end_expired(self) -> list[StepOutput]:
        """End requests past their time limit. Checked every `EXPIRY_INTERVAL` seconds."""
        now = time.monotonic()
        if now < self._expiry_due:
            return []
        self._expiry_due = now + EXPIRY_INTERVAL
        outputs = []
        for request_id, sequence in list(self._live.items()):
            if not sequence.out_of_time(now):
                continue
            del self._live[request_id]
            self._withdraw(sequence)
            late = "the request exceeded its time limit"
            outputs.append(StepOutput(request_id, [], "error", error=late))
        return outputs

    def _withdraw(self, sequence: Sequence) -> None:
        self._note_end(sequence)
        for future, waiting in self._compiling.items():
            if waiting is sequence:
                future.cancel()
                del self._compiling[future]
                return
        self._scheduler.remove(sequence)

    def _admit_guided(self, timeout: float) -> list[StepOutput]:
        """Wait up to `timeout` seconds for compiled grammars; queue their sequences, reject invalid ones."""
        done, _ = futures.wait(self._compiling, timeout, futures.FIRST_COMPLETED)
        refused = []
        for future in done:
            sequence = self._compiling.pop(future)
            request_id = sequence.request.request_id
            error = future.exception()
            if error is None:
                sequence.matcher = future.result()
                sequence.matcher.apply(sequence.request.sampling)
                self._scheduler.add(sequence)
                continue
            guide = sequence.request.guide
            if isinstance(error, InvalidRequest) and guide is not None and guide.optional:
                log.info("request %s goes without its guide: %s", request_id, error)
                self._scheduler.add(sequence)
                continue
            del self._live[request_id]
            if isinstance(error, InvalidRequest):
                refused.append(refusal(request_id, error))
            else:
                log.error("the guide of request %s could not be compiled", request_id, exc_info=error)
                refused.append(StepOutput(request_id, [], "error", error=FAILED_ON_REQUEST))
        return refused

    def _launch(self, plan: Plan) -> Step:
        begun = time.monotonic()
        if self._followers is not None:
            self._followers.compute(plan)
        step = self._executor.launch(plan)
        if self._step_budget is not None:
            self._step_budget.launched(plan, begun)
        # State changes only after a successful launch, so a step that ran out of memory can be planned again.
        self._scheduler.advance(plan)
        self._stats.steps += 1
        self._stats.count_step(len(plan.decode) + sum(chunk.length for chunk in plan.prefill))
        for sequence in step.sampled:
            sequence.unread += 1
        return step

    def _may_fly(self, step: Step) -> bool:
        """Whether the next step can be launched before this one's tokens are read.

        Guides need the tokens; after drafts it is not known how many there are.
        """
        return (
            self._executor.overlaps and not step.drafts and all(one.matcher is None for one in step.sampled)
        )

    def _must_land(self) -> bool:
        """Whether the tokens of the step in flight are needed to plan the next one."""
        if self._pool.free < len(self._scheduler.running):
            return True  # a sequence may be preempted, for which all of its tokens must be known
        return self._drafter is not None and self._drafter.wants(self._scheduler.running)

    def _land(self) -> list[StepOutput]:
        """Read the tokens of the step in flight, if any."""
        step, self._flying = self._flying, None
        return [] if step is None else self._read(step)

    def _read(self, step: Step) -> list[StepOutput]:
        tokens = step.collect()
        if self._step_budget is not None:
            self._step_budget.read(time.monotonic())
        if step.drafts:
            return self._land_drafts(step, tokens)
        outputs = []
        for sequence, chosen in zip(step.sampled, tokens, strict=True):
            sequence.unread -= 1
            if self._live.get(sequence.request.request_id) is sequence:
                outputs.append(self._take(sequence, chosen))
        return outputs

    def _land_drafts(self, step: Step, tokens: list[Sampled]) -> list[StepOutput]:
        """Read the tokens of a step with drafts: those up to the first that differs from its draft."""
        outputs = []
        for sequence, drafted, chosen in verified(step.sampled, step.drafts, tokens):
            sequence.unread -= 1
            if self._live.get(sequence.request.request_id) is not sequence:
                continue
            output = self._take_counted(sequence, chosen[0])
            outputs.append(output)
            accepted = 0
            for token in chosen[1:]:
                if output.finish_reason is not None:
                    break
                self._scheduler.accept(sequence)
                accepted += 1
                more = self._take_counted(sequence, token)
                if more.finish_reason == "error":
                    output = more  # after the tokens so far, as these would be in a step of their own
                    outputs.append(output)
                else:
                    output.add(more)
            if drafted and self._drafter is not None:
                self._drafter.judge(sequence, drafted, accepted)
                outputs[-1].drafted, outputs[-1].accepted = drafted, accepted
        return outputs

    def _take_counted(self, sequence: Sequence, chosen: Sampled) -> StepOutput:
        """Take a token of a step with drafts, which the sampler has not counted."""
        output = self._take(sequence, chosen)
        if sequence.rules is not None and output.finish_reason is None:
            count_token(sequence, torch.tensor([chosen.token_id], device=self._device))
        return output

    def _take(self, sequence: Sequence, chosen: Sampled) -> StepOutput:
        """Take a sampled token, or end the sequence that it cannot be used for."""
        self._stats.generated_tokens += chosen.token_id != NO_TOKEN
        try:
            return self._failed(sequence) if sequence.faulty else self._advance(sequence, chosen)
        except Exception:
            log.exception("the token of request %s cannot be used", sequence.request.request_id)
            return self._failed(sequence)

    def _end_faulty(self, plan: Plan) -> list[StepOutput]:
        """End the sequences whose prompt log-probabilities could not be computed."""
        return [
            self._failed(chunk.sequence)
            for chunk in plan.prefill
            if chunk.sequence.faulty and self._live.get(chunk.sequence.request.request_id) is chunk.sequence
        ]

    def _failed(self, sequence: Sequence) -> StepOutput:
        output = StepOutput(sequence.request.request_id, [], "error", error=FAILED_ON_REQUEST)
        return self._end(sequence, output)

    def _advance(self, sequence: Sequence, sampled: Sampled) -> StepOutput:
        sampling = sequence.request.sampling
        output = StepOutput(sequence.request.request_id, [])
        output.prompt_logprobs, sequence.prompt_logprobs = sequence.prompt_logprobs, None
        output.queued_ms, sequence.queued_ms = sequence.queued_ms, None
        if not sequence.generated:
            output.cached_tokens = sequence.cached_tokens or 0
        if sampling.max_tokens == 0:
            output.finish_reason = "length"
            return self._end(sequence, output)
        token = sampled.token_id
        if token == NO_TOKEN:
            return self._end_without_token(sequence, output)
        sequence.tokens.append(token)
        output.token_ids.append(token)
        if sampled.logprobs is not None:
            output.logprobs = [sampled.logprobs]
        if (token in self._eos and not sampling.ignore_eos) or token in sampling.stop_token_ids:
            output.finish_reason, output.stop_token_id = "stop", token
        elif sequence.matcher is not None and not sequence.matcher.accept_token(token):
            return self._end_without_token(sequence, output)
        elif sequence.matcher is not None and sequence.matcher.is_terminated():
            output.finish_reason = "stop"
        elif sequence.generated >= sampling.max_tokens:
            output.finish_reason = "length"
        return output if output.finish_reason is None else self._end(sequence, output)

    def _end_without_token(self, sequence: Sequence, output: StepOutput) -> StepOutput:
        if sequence.matcher is not None:
            self._guides_ended[TOO_COMPLEX if sequence.matcher.too_complex else NO_TOKEN_POSSIBLE] += 1
        return self._end(sequence, _no_token(output, sequence))

    def _note_end(self, sequence: Sequence) -> None:
        if sequence.matcher is not None:
            self._stats.guide_mask_seconds += sequence.matcher.seconds + sequence.matcher.draft_seconds
        if self._drafter is not None:
            self._drafter.ended(sequence)

    def _end(self, sequence: Sequence, output: StepOutput) -> StepOutput:
        self._note_end(sequence)
        del self._live[output.request_id]
        self._scheduler.remove(sequence)
        return output


def _begun(plan: Plan) -> list[StepOutput]:
    """Say that sequences have left the queue whose prefill takes further steps."""
    outputs = []
    for chunk in plan.prefill:
        sequence = chunk.sequence
        if sequence.queued_ms is not None and sequence.prefilling:
            outputs.append(StepOutput(sequence.request.request_id, [], queued_ms=sequence.queued_ms))
            sequence.queued_ms = None
    return outputs


def _no_token(output: StepOutput, sequence: Sequence) -> StepOutput:
    """Fail a sequence for which no token can be chosen."""
    why, guide = "the sampling parameters allow none", sequence.request.guide
    if guide is not None:
        output.error_param = guide.param or None
        failure = sequence.matcher.error
        why = (
            f"{guide.called} ended: {failure}"
            if failure
            else "the sampling parameters and the guide allow none"
        )
    output.token_ids, output.logprobs, output.finish_reason = [], None, "error"
    output.error = f"No token can be chosen: {why}."
    output.error_code = NO_TOKEN_POSSIBLE
    return output
