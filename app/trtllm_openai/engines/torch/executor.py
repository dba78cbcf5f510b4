"""What computes a step: a plan in, chosen tokens out, at once or while the next step is already planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from trtllm_openai.engines.torch.batch import BatchBuilder
from trtllm_openai.engines.torch.kv_cache import KVCache
from trtllm_openai.engines.torch.model import Model
from trtllm_openai.engines.torch.sampler import Sampled, prompt_logprobs, sample
from trtllm_openai.engines.torch.scheduler import Plan
from trtllm_openai.engines.torch.sequence import Sequence


class Step(Protocol):
    """A step under way. `sampled`: the sequences that get a token."""

    @property
    def sampled(self) -> list[Sequence]: ...

    def collect(self) -> list[Sampled]:
        """Wait for its end; one choice for each of `sampled`."""


class Executor(Protocol):
    """`overlaps`: whether a step may be launched before the tokens of the one before it are known."""

    overlaps: bool

    def launch(self, plan: Plan) -> Step:
        """Begin a step. When there is no memory for it, it did nothing (`memory.out_of_memory`)."""


@dataclass(frozen=True, slots=True)
class DoneStep:
    """A step whose end was waited for."""

    sampled: list[Sequence]
    chosen: list[Sampled]

    def collect(self) -> list[Sampled]:
        return self.chosen


class EagerExecutor:
    """Computes a step when it is launched: on a CPU, and on GPUs that share a model."""

    overlaps = False

    def __init__(self, model: Model, cache: KVCache, builder: BatchBuilder) -> None:
        self._model, self._cache, self._builder = model, cache, builder

    def launch(self, plan: Plan) -> DoneStep:
        batch = self._builder.build(plan)
        hidden = self._model(batch, self._cache)
        scored = [
            (scores, prompt_logprobs(self._model, hidden, chunk, first_row))
            for chunk, first_row in batch.scored
            if (scores := chunk.sequence.prompt_logprobs) is not None
        ]
        chosen = []
        if batch.sampled:
            chosen = sample(self._model.logits(hidden, batch.sample_rows), batch.sampled)
        for scores, more in scored:
            scores += more
        return DoneStep(batch.sampled, chosen)

    def follow(self, plan: Plan) -> None:
        """What a rank other than the first computes, which chooses nothing."""
        batch = self._builder.build(plan)
        hidden = self._model(batch, self._cache)
        for chunk, first_row in batch.scored:
            prompt_logprobs(self._model, hidden, chunk, first_row)
        if batch.sampled:
            self._model.logits(hidden, batch.sample_rows)
