"""Executors compute steps: they take a plan and return sampled tokens, synchronously or asynchronously."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from trtllm_openai.engines.torch.batch import BatchBuilder
from trtllm_openai.engines.torch.kv_cache import KVCache
from trtllm_openai.engines.torch.model import Model
from trtllm_openai.engines.torch.plan import Plan
from trtllm_openai.engines.torch.sampler import Sampled, prompt_logprobs, sample
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.engines.torch.speculation.verification import Drafts


class Step(Protocol):
    """A launched step. `sampled`: the sequences that get a token. `drafts`: those that it verifies."""

    @property
    def sampled(self) -> list[Sequence]: ...

    @property
    def drafts(self) -> Drafts: ...

    def collect(self) -> list[Sampled]:
        """Wait for the step to complete; returns a token for each sequence in `sampled` and its draft tokens.

        In the order of `speculation.verification.spread`. With drafts, `LogitRules` count none of them yet.
        """


class Executor(Protocol):
    """Computes plans. `overlaps`: whether a step can be launched before the previous step is collected."""

    overlaps: bool

    def launch(self, plan: Plan) -> Step:
        """Launch a step. If it raises an out-of-memory error (`memory.out_of_memory`), it had no effect."""

    def close(self) -> None:
        """Release what would keep the ranks' process group from being destroyed. No step can follow."""


@dataclass(frozen=True, slots=True)
class DoneStep:
    """A completed step."""

    sampled: list[Sequence]
    chosen: list[Sampled]
    drafts: Drafts

    def collect(self) -> list[Sampled]:
        return self.chosen


class EagerExecutor:
    """Computes each step synchronously at launch, on a CPU."""

    overlaps = False

    def __init__(self, model: Model, cache: KVCache, builder: BatchBuilder) -> None:
        self._model, self._cache, self._builder = model, cache, builder
        self.between: Callable[[], None] | None = None
        """Called before each layer of a step that is not `Plan.first`; it may launch one that is."""

    def launch(self, plan: Plan) -> DoneStep:
        batch = self._builder.build(plan)
        hidden = self._model(batch, self._cache, None if plan.first else self.between)
        scored = [
            (scores, prompt_logprobs(self._model, hidden, chunk, first_row))
            for chunk, first_row in batch.scored
            if (scores := chunk.sequence.prompt_logprobs) is not None
        ]
        chosen = []
        if batch.sampled:
            logits = self._model.logits(hidden, batch.sample_rows)
            chosen = sample(logits, batch.sampled, batch.drafts)
        for scores, more in scored:
            scores += more
        return DoneStep(batch.sampled, chosen, batch.drafts)

    def close(self) -> None:
        """Nothing to release."""

    def follow(self, plan: Plan) -> None:
        """Compute a step on a rank other than 0, which samples nothing."""
        batch = self._builder.build(plan)
        hidden = self._model(batch, self._cache)
        for chunk, first_row in batch.scored:
            prompt_logprobs(self._model, hidden, chunk, first_row)
        if batch.sampled:
            self._model.logits(hidden, batch.sample_rows)
