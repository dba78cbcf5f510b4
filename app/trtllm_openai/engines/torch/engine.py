"""The torch engine: accepts requests and returns one batch of token deltas per step.

`input_processor` makes a sequence of a request, `guide_queue` holds it until its guide is compiled, the
scheduler plans it into steps, the executor computes them, and `output_processor` makes outputs of the tokens.
The engine drives them, and is the one that ends a sequence, in all of them.

If the executor supports overlap, the next step is planned and launched while the previous one still runs, and
tokens are read one step late. A sequence that finished in the meantime has one extra token in flight, which
is discarded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from trtllm_openai.engines.kv_events import KVEvents
from trtllm_openai.engines.torch.block_pool import BlockPool
from trtllm_openai.engines.torch.executor import EagerExecutor, Executor, Step
from trtllm_openai.engines.torch.followers import Followers
from trtllm_openai.engines.torch.guide_compiler import GuideCompiler
from trtllm_openai.engines.torch.guide_queue import GuideQueue
from trtllm_openai.engines.torch.input_processor import InputProcessor
from trtllm_openai.engines.torch.kv_cache import KVCache
from trtllm_openai.engines.torch.memory import out_of_memory
from trtllm_openai.engines.torch.output_processor import OutputProcessor, begun, failed
from trtllm_openai.engines.torch.plan import Limits, Plan
from trtllm_openai.engines.torch.sampler import Sampled
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


class TorchEngine:
    """In-flight batching over one model. Implements `engines.base.Interruptible`."""

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
        self._kv_events = kv_events
        self._pool = BlockPool(info.kv_blocks, kv_events.removed if kv_events is not None else None)
        self._drafter = drafter
        self._step_budget = step_budget
        self._scheduler = Scheduler(limits, self._pool, cache, kv_events, drafter, step_budget)
        self._inputs = InputProcessor(info, self._device)
        self._outputs = OutputProcessor(info, self._device)
        self._guides = GuideQueue(guides) if guides is not None else None
        self._followers = followers
        self._live: dict[str, Sequence] = {}
        self._aborted: list[str] = []
        self._expiry_due = 0.0
        self._flying: Step | None = None  # launched, tokens not read yet
        self._stats = EngineStats(kv_blocks_total=info.kv_blocks)

    def submit(self, request: GenerationRequest) -> None:
        if request.request_id in self._live:
            raise InvalidRequest(
                f"A request with the id {request.request_id} is already running.", "request_id"
            )
        sequence = self._inputs.sequence(request)
        self._live[request.request_id] = sequence
        if request.guide is not None and self._guides is not None:
            self._guides.add(sequence, request.guide)
        else:
            self._scheduler.add(sequence)
        self._stats.prompt_tokens += sequence.prompt_tokens

    def abort(self, request_id: str) -> None:
        if request_id in self._live:
            self._aborted.append(request_id)

    def step(self, timeout: float) -> list[StepOutput]:
        outputs = self._end_aborted()
        if self._guides:  # sequences wait there
            idle = not (outputs or self._scheduler.running or self._scheduler.waiting)
            outputs += self._admit_guided(self._guides, timeout if idle else 0.0)
        outputs += self._end_expired()
        with torch.inference_mode():
            outputs += self._compute()
        if self._kv_events is not None:
            self._kv_events.flush()
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
                    outputs += begun(plan) + self._end_faulty(plan) + self._read(step)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                log.warning("a prompt that goes first ran out of memory: it is computed with the others")
                self._scheduler.none_first()
        return outputs

    def stats(self) -> EngineStats:
        stats = self._stats
        self._outputs.count(stats)
        if self._guides is not None:
            self._guides.count(stats)
        if self._drafter is not None:
            self._drafter.count(stats)
        stats.waiting = len(self._scheduler.waiting) + stats.deferred
        stats.running = len(self._scheduler.running)
        stats.kv_blocks_used = self._pool.used
        stats.kv_blocks_reused = self._scheduler.reused
        stats.preemptions = self._scheduler.preemptions
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

    def _compute(self) -> list[StepOutput]:
        """Launch a step, and read the tokens of the one in flight: after it, unless the plan needs them."""
        outputs = self._land() if self._must_land() else []
        try:
            plan = self._scheduler.plan_first() or self._scheduler.plan()
        except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not self._recoverable(error):
                raise
            return outputs + self._land() + self._relieve(self._scheduler.last, "swapping KV blocks")
        try:
            launched = self._launch(plan) if plan else None
        except (MemoryError, RuntimeError) as error:
            if not self._recoverable(error):
                raise
            last = plan.prefill[-1].sequence if plan.prefill else plan.decode[-1]
            number = len(plan.decode) + len(plan.prefill)
            return outputs + self._land() + self._relieve(last, f"a step of {number} sequences")
        outputs += self._land()
        if launched is not None:
            outputs += begun(plan) + self._end_faulty(plan)
            self._flying = launched
            if not self._may_fly(launched):
                outputs += self._land()
        return outputs

    def _launch(self, plan: Plan) -> Step:
        begun_at = time.monotonic()
        if self._followers is not None:
            self._followers.compute(plan)
        step = self._executor.launch(plan)
        if self._step_budget is not None:
            self._step_budget.launched(plan, begun_at)
        if self._drafter is not None:
            self._drafter.launched(plan)
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
        """Whether the tokens of a step in flight are needed to plan the next one."""
        if self._flying is None:
            return False
        if self._pool.free < len(self._scheduler.running):
            return True  # a sequence may be preempted, for which all of its tokens must be known
        return self._drafter is not None and self._drafter.wants(self._scheduler.running)

    def _land(self) -> list[StepOutput]:
        """Read the tokens of the step in flight, if any."""
        step, self._flying = self._flying, None
        return [] if step is None else self._read(step)

    def _read(self, step: Step) -> list[StepOutput]:
        tokens, read_at = step.collect(), time.monotonic()
        if self._step_budget is not None:
            self._step_budget.read(read_at)
        if step.drafts:
            return self._read_drafts(step, tokens, read_at)
        if self._drafter is not None:
            self._drafter.read(len(tokens), read_at)
        outputs = []
        for sequence, chosen in zip(step.sampled, tokens, strict=True):
            sequence.unread -= 1
            if self._live.get(sequence.request.request_id) is sequence:
                output = self._outputs.take(sequence, chosen)
                if output.finish_reason is not None:
                    self._end(sequence)
                outputs.append(output)
        return outputs

    def _read_drafts(self, step: Step, tokens: list[Sampled], read_at: float) -> list[StepOutput]:
        """Read the tokens of a step with drafts: those up to the first that differs from its draft."""
        outputs, total = [], 0
        for sequence, drafted, chosen in verified(step.sampled, step.drafts, tokens):
            sequence.unread -= 1
            total += len(chosen)
            if self._live.get(sequence.request.request_id) is not sequence:
                continue
            taken, accepted = self._outputs.take_all(sequence, chosen, self._scheduler.accept)
            if taken[-1].finish_reason is not None:
                self._end(sequence)
            if drafted and self._drafter is not None:
                self._drafter.judge(sequence, drafted, accepted)
                taken[-1].drafted, taken[-1].accepted = drafted, accepted
            outputs += taken
        if self._drafter is not None:
            self._drafter.read(total, read_at)
        return outputs

    def _admit_guided(self, guides: GuideQueue, timeout: float) -> list[StepOutput]:
        """Schedule sequences whose guide is compiled, end those whose guide cannot be used."""
        ready, unusable = guides.take(timeout)
        for sequence in ready:
            self._scheduler.add(sequence)
        for output in unusable:
            del self._live[output.request_id]
        return unusable

    def _end_aborted(self) -> list[StepOutput]:
        outputs = []
        for request_id in self._aborted:
            sequence = self._live.get(request_id)
            if sequence is not None:
                self._end(sequence)
                outputs.append(StepOutput(request_id, [], "abort"))
        self._aborted.clear()
        return outputs

    def _end_expired(self) -> list[StepOutput]:
        """End requests past their time limit. Checked every `EXPIRY_INTERVAL` seconds."""
        now = time.monotonic()
        if now < self._expiry_due:
            return []
        self._expiry_due = now + EXPIRY_INTERVAL
        late = [sequence for sequence in self._live.values() if sequence.out_of_time(now)]
        for sequence in late:
            self._end(sequence)
        error = "the request exceeded its time limit"
        return [StepOutput(sequence.request.request_id, [], "error", error=error) for sequence in late]

    def _end_faulty(self, plan: Plan) -> list[StepOutput]:
        """End the sequences whose prompt log-probabilities could not be computed."""
        outputs = []
        for sequence in (chunk.sequence for chunk in plan.prefill):
            if sequence.faulty and self._live.get(sequence.request.request_id) is sequence:
                self._end(sequence)
                outputs.append(failed(sequence))
        return outputs

    def _recoverable(self, error: Exception) -> bool:
        """Whether memory ran out where the engine can go on.

        Other ranks may have run the step, or swapped; their KV caches would then diverge from this one.
        """
        return self._followers is None and out_of_memory(error)

    def _relieve(self, sequence: Sequence, what: str) -> list[StepOutput]:
        """Recover from `what`, which ran out of memory without effect: fail `sequence`, the last to join."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        request_id = sequence.request.request_id
        if self._live.get(request_id) is not sequence:
            return []  # it already finished; its extra token was in flight
        log.error("%s ran out of memory", what)
        self._end(sequence)
        return [StepOutput(request_id, [], "error", error="the engine ran out of memory")]

    def _end(self, sequence: Sequence) -> None:
        """Forget a live sequence and release what it has."""
        if sequence.matcher is not None:
            self._stats.guide_mask_seconds += sequence.matcher.seconds + sequence.matcher.draft_seconds
        if self._drafter is not None:
            self._drafter.ended(sequence)
        del self._live[sequence.request.request_id]
        if self._guides is None or not self._guides.remove(sequence):
            self._scheduler.remove(sequence)
