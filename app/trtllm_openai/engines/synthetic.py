"""The synthetic engine: emits tokens at a configured rate at almost no cost.

It serves load tests of everything but the engine. Each sequence gets its first token `ttft` seconds after it
starts running and one more every `itl` seconds; all sequences advance in lockstep, as in a real batch. Token
ids walk through the vocabulary as a function of seed and position, so the text is reproducible.

With a script it tests the loops of agents: request n is answered with text n of it, whatever it asks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

from trtllm_openai.config import SyntheticSettings
from trtllm_openai.engines.base import Progress
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import (
    Capabilities,
    EngineInfo,
    EngineStats,
    GenerationRequest,
    StepOutput,
)

SLOW_TTFT_S = 1.0
"""From this time to the first token on, the engine says when it has begun with a sequence."""


@dataclass(slots=True)
class _Sequence:
    request: GenerationRequest
    due: float
    """Time at which the next token is emitted (monotonic seconds)."""
    token: int
    made: int = 0
    submitted: float = 0.0
    queued_ms: float | None = None
    script: Sequence[int] = ()
    """The tokens to emit, the last of which ends the sequence; empty: walk through the vocabulary."""


class SyntheticEngine:
    """An Engine without a model. `vocab_size` bounds the token ids it emits.

    `script`: token ids of the answers, without EOS, in the order of requests; after the last come the first.
    """

    def __init__(
        self,
        settings: SyntheticSettings,
        vocab_size: int,
        eos_token_ids: tuple[int, ...],
        script: Sequence[Sequence[int]] = (),
    ) -> None:
        self.info = EngineInfo(
            engine="synthetic",
            architecture="synthetic",
            dtype="none",
            device="cpu",
            vocab_size=vocab_size,
            eos_token_ids=eos_token_ids,
            max_seq_len=settings.max_seq_len,
            max_batch_size=settings.max_batch_size,
            capabilities=Capabilities(seed=True),
        )
        self._settings = settings
        self._waiting: deque[_Sequence] = deque()
        self._running: dict[str, _Sequence] = {}
        self._aborted: set[str] = set()
        self._banned = frozenset(eos_token_ids)
        self._script = cycle([[*tokens, *eos_token_ids[:1]] for tokens in script] or [[]])
        self._stats = EngineStats()
        self._prefilled = 0  # prompt tokens of sequences that began since the last step with tokens

    def submit(self, request: GenerationRequest) -> None:
        total = len(request.prompt_token_ids) + request.sampling.max_tokens
        if total > self.info.max_seq_len:
            raise InvalidRequest(
                f"{total} tokens exceed the limit of {self.info.max_seq_len}",
                "prompt",
                "context_length_exceeded",
            )
        first = (request.sampling.seed or 0) * 7919 + len(request.prompt_token_ids)
        self._waiting.append(
            _Sequence(
                request,
                0.0,
                first % self.info.vocab_size,
                submitted=time.monotonic(),
                script=next(self._script),
            )
        )
        self._stats.prompt_tokens += len(request.prompt_token_ids)

    def abort(self, request_id: str) -> None:
        self._aborted.add(request_id)

    def step(self, timeout: float) -> list[StepOutput]:
        outputs = self._drop_aborted()
        now = time.monotonic()
        while self._waiting and len(self._running) < self._settings.max_batch_size:
            sequence = self._waiting.popleft()
            sequence.due = now + self._settings.ttft
            sequence.queued_ms = (now - sequence.submitted) * 1000 + sequence.request.waited_ms
            self._running[sequence.request.request_id] = sequence
            self._prefilled += len(sequence.request.prompt_token_ids)
            if self._settings.ttft >= SLOW_TTFT_S:
                outputs.append(StepOutput(sequence.request.request_id, [], queued_ms=sequence.queued_ms))
                sequence.queued_ms = None
        if self._running and not outputs:
            wait = min(sequence.due for sequence in self._running.values()) - now
            if wait > 0:
                time.sleep(min(wait, timeout))
                now = time.monotonic()
        advanced = [self._advance(sequence) for sequence in self._running.values() if sequence.due <= now]
        if advanced or self._prefilled:
            self._stats.count_step(self._prefilled + len(advanced))
            self._prefilled = 0
        outputs += advanced
        for output in outputs:
            if output.finish_reason:
                self._running.pop(output.request_id, None)
        self._stats.steps += bool(outputs)
        return outputs

    def stats(self) -> EngineStats:
        self._stats.waiting = len(self._waiting)
        self._stats.running = len(self._running)
        return self._stats

    def shutdown(self, timeout_s: float) -> None:
        self._waiting.clear()
        self._running.clear()

    def _drop_aborted(self) -> list[StepOutput]:
        if not self._aborted:
            return []
        gone = [request_id for request_id in self._aborted if self._running.pop(request_id, None)]
        waiting = {sequence.request.request_id for sequence in self._waiting}
        if dropped := self._aborted & waiting:
            self._waiting = deque(s for s in self._waiting if s.request.request_id not in dropped)
            gone += dropped
        self._aborted.clear()
        return [StepOutput(request_id, [], "abort") for request_id in gone]

    def _advance(self, sequence: _Sequence) -> StepOutput:
        token = sequence.script[sequence.made] if sequence.script else self._next_token(sequence)
        sequence.made += 1
        sequence.due += self._settings.itl
        self._stats.generated_tokens += 1
        request = sequence.request
        output = StepOutput(request.request_id, [token])
        if sequence.made == len(sequence.script):
            output.finish_reason, output.stop_token_id = "stop", token
        elif sequence.made >= request.sampling.max_tokens:
            output.finish_reason = "length"
        output.queued_ms, sequence.queued_ms = sequence.queued_ms, None
        return output

    def _next_token(self, sequence: _Sequence) -> int:
        token = sequence.token
        while token in self._banned:
            token = (token + 1) % self.info.vocab_size
        sequence.token = (token + 1) % self.info.vocab_size
        return token


def load(
    settings: SyntheticSettings,
    vocab_size: int,
    eos_token_ids: tuple[int, ...],
    progress: Progress,
    encode: Callable[[str], list[int]],
) -> SyntheticEngine:
    """Create the engine after a simulated load of `settings.load_time` seconds.

    `encode`: the model's tokenizer, for the script.
    """
    end = time.monotonic() + settings.load_time
    while (left := end - time.monotonic()) > 0:
        progress(1 - left / settings.load_time, "simulating a load")
        time.sleep(min(left, 0.1))
    script = [encode(text) for text in settings.script]
    return SyntheticEngine(settings, vocab_size, eos_token_ids, script)
