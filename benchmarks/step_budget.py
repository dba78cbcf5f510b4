"""Predicts what `torch.max_step_ms` does on a GPU: the real scheduler over a model of an H100's step times.

    python benchmarks/step_budget.py [--limits 15 40] [--streams 64 256] [--noise 0.03]

Nothing is measured: `H100` gives the duration of a step of the shape of Llama-3-8B in bfloat16, from the
numbers of docs/performance.md. Streams of 512 prompt tokens and 256 answer tokens each run in a closed loop,
three requests for each stream, in the order of the engine: a step is launched before the last one is read.
Without a limit the table can be compared with what was measured there.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "app"), str(ROOT)]

from trtllm_openai.engines.torch.block_pool import BlockPool  # noqa: E402 - needs the path above
from trtllm_openai.engines.torch.plan import Limits, Plan  # noqa: E402
from trtllm_openai.engines.torch.scheduler import Scheduler  # noqa: E402
from trtllm_openai.engines.torch.sequence import Sequence  # noqa: E402
from trtllm_openai.engines.torch.step_budget import StepBudget, Work, work_of  # noqa: E402
from trtllm_openai.generation import GenerationRequest, SamplingParams  # noqa: E402

PROMPT, ANSWER, ROUNDS = 512, 256, 3
TURNAROUND_S = 0.002
"""From the end of an answer to the next request of its stream."""

Cost = Callable[[Work], float]


@dataclass(frozen=True, slots=True)
class Device:
    """Durations of steps: weights are read while products are computed, then attention reads the KV cache."""

    weights_s: float
    row_s: float
    context_s: float
    pair_s: float
    rest_s: float

    def __call__(self, work: Work) -> float:
        products = math.sqrt(math.hypot(self.weights_s**2, (self.row_s * (work.rows + work.tokens)) ** 2))
        return self.rest_s + products + self.context_s * work.context + self.pair_s * work.pairs


H100 = Device(15.0 / 2860, 22.6e-6, 131072 / 2.4e12, 0.5e-9, 0.27e-3)
"""15.0 GB at 2.86 TB/s; 8192 tokens of prompts in 187 ms; 128 KiB of keys and values a token, read at 84 % of
that rate; one row in 5.5 ms."""


class NoStore:
    """There is no cache to copy from."""

    def copy_out(self, blocks: list[int]) -> torch.Tensor:
        raise NotImplementedError

    def copy_in(self, blocks: list[int], content: torch.Tensor) -> None:
        raise NotImplementedError


@dataclass(slots=True)
class Result:
    """Of one load, times in seconds."""

    seconds: float = 0.0
    tokens: int = 0
    ttft: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    tpot: list[float] = field(default_factory=list)

    def row(self) -> str:
        """Its cells of the table."""
        cells = [
            f"{self.tokens / self.seconds:.0f}",
            f"{1000 * statistics.median(self.tpot):.1f}",
            f"{1000 * statistics.median(self.ttft):.0f}",
            f"{1000 * percentile(self.ttft, 0.99):.0f}",
            f"{1000 * percentile(self.gaps, 0.99):.1f}",
            f"{1000 * max(self.gaps):.0f}",
        ]
        return " | ".join(cells)


HEAD = "tok/s | median TPOT, ms | median TTFT, ms | p99 TTFT, ms | p99 ITL, ms | longest gap, ms"


def percentile(values: list[float], share: float) -> float:
    """The value that the share of all does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@dataclass(slots=True)
class Stream:
    """A request under way."""

    asked: float
    first: float = 0.0
    latest: float = 0.0


class Simulation:
    """A closed loop of `streams` requests at a time, on a device that is nothing but durations of steps."""

    def __init__(
        self, streams: int, limit_s: float | None, cost: Cost, prompt: int = PROMPT, answer: int = ANSWER
    ) -> None:
        limits = Limits(256, 8192, 8192 - 256, 16, prefix_caching=False)
        self._budget = None if limit_s is None else StepBudget(limit_s, limits)
        self._scheduler = Scheduler(limits, BlockPool(25_000), NoStore(), step_budget=self._budget)
        self._cost = cost
        self._prompt, self._answer = prompt, answer
        self._left = streams * ROUNDS
        self._arrivals = [0.0] * streams
        self._under_way: dict[Sequence, Stream] = {}
        self._result = Result()

    def run(self) -> Result:
        """Run all requests to their ends."""
        now, device_free = 0.0, 0.0
        flying: tuple[Plan, list[Sequence], float] | None = None
        while True:
            self._arrive(now)
            plan = self._scheduler.plan()
            launched = None
            if plan:
                context = sum(sequence.computed for sequence in plan.decode)
                device_free = max(now, device_free) + self._cost(work_of(plan)._replace(context=context))
                if self._budget is not None:
                    self._budget.launched(plan, now)
                self._scheduler.advance(plan)
                sampled = [*plan.decode, *(chunk.sequence for chunk in plan.prefill if chunk.last)]
                for sequence in sampled:
                    sequence.unread += 1
                launched = plan, sampled, device_free
            if flying is not None:
                now = max(now, flying[2])
                if self._budget is not None:
                    self._budget.read(now)
                self._read(flying[1], now)
            elif launched is None:
                if not self._arrivals:
                    self._result.seconds = now
                    return self._result
                now = self._arrivals[0]
            flying = launched

    def _arrive(self, now: float) -> None:
        while self._left and self._arrivals and self._arrivals[0] <= now:
            asked = heapq.heappop(self._arrivals)
            self._left -= 1
            request = GenerationRequest(
                str(self._left), [1] * self._prompt, SamplingParams(max_tokens=self._answer)
            )
            sequence = Sequence(request)
            self._under_way[sequence] = Stream(asked)
            self._scheduler.add(sequence)

    def _read(self, sampled: list[Sequence], now: float) -> None:
        result = self._result
        for sequence in sampled:
            stream = self._under_way[sequence]
            sequence.unread -= 1
            sequence.tokens.append(1)
            result.tokens += 1
            if sequence.generated == 1:
                stream.first = now
                result.ttft.append(now - stream.asked)
            else:
                result.gaps.append(now - stream.latest)
            stream.latest = now
            if sequence.generated == self._answer:
                result.tpot.append((now - stream.first) / (self._answer - 1))
                del self._under_way[sequence]
                self._scheduler.remove(sequence)
                if self._left > len(self._arrivals):
                    heapq.heappush(self._arrivals, now + TURNAROUND_S)


def noisy(cost: Cost, noise: float, seed: int) -> Cost:
    """The same durations with normally distributed errors, as a share of each."""
    chance = random.Random(seed)
    return lambda work: cost(work) * max(0.5, chance.gauss(1, noise))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--limits", type=float, nargs="+", default=[10, 15, 25, 40], help="milliseconds")
    parser.add_argument("--streams", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--noise", type=float, default=0.03, help="standard deviation of a step's duration")
    args = parser.parse_args()
    print(f"| streams | max_step_ms | {HEAD} |")
    print("|---" * (HEAD.count("|") + 3) + "|")
    for streams in args.streams:
        for limit in (None, *args.limits):
            limit_s = None if limit is None else limit / 1000
            result = Simulation(streams, limit_s, noisy(H100, args.noise, 1)).run()
            print(f"| {streams} | {'off' if limit is None else f'{limit:g}'} | {result.row()} |", flush=True)


if __name__ == "__main__":
    main()
