"""Fair queueing between API keys in front of an engine: a virtual token counter for each key.

Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024. The counter of a key grows with the
service that it gets, and the next request to reach the engine is one of the key with the lowest counter. A
key that begins to wait is lifted to the lowest counter of those that wait: nothing is saved up while idle.
The runner sees the requests of all HTTP processes, so that the order is exact for its engine.

Service is what `PROMPT_WEIGHT` and `PLACE_WEIGHT` say: prompt tokens, and the steps that the key's sequences
have a place in the engine's batch, in each of which a sequence makes a token. Steps are counted once for all
sequences and a key's share is added up when its number of places changes: there is no work per token.

An engine queues by arrival and priority. To keep the order here, it is given no more than it can soon begin
(`FairQueue.next`). A part of the batch is kept free for keys with less than their share, or a key would wait
for the end of a sequence of the one that fills the batch.

A request of a key that has much less than its share of the places is marked when it enters the engine
(`FairQueue.marked`), which may then compute its prompt by itself, before what others ask: a step of a full
batch takes several times as long as one prompt.

A request that waits too long is aborted by its HTTP process, like everywhere else.

Keys of a higher priority go first. Requests of one key go by their own priority, then by arrival.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from heapq import heappop, heappush

import msgspec

from trtllm_openai.generation import (
    DEFAULT_PRIORITY,
    EngineInfo,
    EngineStats,
    GenerationRequest,
    StepOutput,
)

PROMPT_WEIGHT = 1.0
PLACE_WEIGHT = 2.0
"""As in the paper: a generated token costs twice a prompt token."""
RESERVED = 16
"""One in so many places of the batch is kept free while several keys are in use, at least one of four."""
RECENT_S = 600.0
"""Seconds after its last request for which a key is in use, if none of its requests waits or runs."""
STEPS_AHEAD = 2
"""Steps whose prompt tokens an engine is given at once: one that runs, and one that is planned meanwhile."""
DEFAULT_STEP_TOKENS = 8192
"""Prompt tokens of a step of an engine that does not say."""


@dataclass(slots=True, order=True)
class _Waiting:
    rank: tuple[float, int]
    """By priority, then by arrival."""
    request: GenerationRequest = field(compare=False)
    since: float = field(compare=False)
    key: _Key = field(compare=False)
    gone: bool = field(default=False, compare=False)
    """Whether it was removed: it stays in the heap until it comes to the top."""


@dataclass(slots=True, eq=False)
class _Key:
    """One key: its virtual token counter, its places in the engine, and its requests that wait."""

    name: str
    priority: float = DEFAULT_PRIORITY
    served: float = 0.0
    places: int = 0
    settled: int = 0
    """The step up to which `served` covers the places."""
    used_at: float = 0.0
    turn: int = -1
    """When its latest request began, in the order of all."""
    waiting: int = 0
    heap: list[_Waiting] = field(default_factory=list)
    """Its requests that wait, and removed ones."""

    def head(self) -> _Waiting:
        """The next of the requests that wait; there is one."""
        while self.heap[0].gone:
            heappop(self.heap)
        return self.heap[0]

    def settle(self, step: int) -> None:
        """Add the service since `settled`."""
        self.served += PLACE_WEIGHT * self.places * (step - self.settled)
        self.settled = step


class FairQueue:
    """Requests of keys on their way to one engine. Times are monotonic seconds.

    The owner calls `next` until it gives nothing, and then `stepped`, for every step of the engine.
    """

    def __init__(self, info: EngineInfo) -> None:
        self._info = info
        self._window = STEPS_AHEAD * (info.max_num_tokens or DEFAULT_STEP_TOKENS)
        self._keys: dict[str, _Key] = {}
        self._order = itertools.count()
        self._step = 0
        self._waiting: dict[str, _Waiting] = {}
        self._in_engine: dict[str, _Key] = {}
        self._unstarted: dict[str, int] = {}  # prompt tokens of those in the engine without an output
        self._unstarted_tokens = 0
        self._last_served = 0.0  # counter of the key that waited last
        self._in_use = 1
        self._recount_due = 0.0

    @property
    def waiting(self) -> int:
        """Number of requests that wait here."""
        return len(self._waiting)

    @property
    def shared(self) -> bool:
        """Whether several keys are in use."""
        return self._in_use > 1

    def put(self, request: GenerationRequest, now: float) -> None:
        """Add a request, which has a `key`."""
        key = self._keys.setdefault(request.key, _Key(request.key))
        key.priority = request.key_priority
        if not key.waiting:
            key.settle(self._step)
            key.served = max(key.served, self._floor())
        if key.used_at + RECENT_S < now or not key.used_at:
            self._recount_due = now  # it was not in use
        key.used_at = now
        priority = DEFAULT_PRIORITY if request.priority is None else request.priority
        one = _Waiting((-priority, next(self._order)), request, now, key)
        heappush(key.heap, one)
        key.waiting += 1
        self._waiting[request.request_id] = one

    def next(self, stats: EngineStats, now: float) -> GenerationRequest | None:
        """The request to give to the engine now; None if it can soon begin no other, or none waits.

        `stats`: the engine's, after its last step. An idle engine is always given one.
        """
        if not self._waiting:
            return None
        if now >= self._recount_due:
            self._recount_due = now + RECENT_S / 10
            self._in_use = sum(
                key.used_at + RECENT_S >= now or key.waiting + key.places > 0 for key in self._keys.values()
            )
        key = self._choose()
        if key is None or not self._may_begin(key.head().request, stats):
            return None
        one = key.head()
        self._take_out(one)
        self._enter(key, one.request)
        return self._for_engine(one, now)

    def marked(self, requests: list[GenerationRequest]) -> list[GenerationRequest]:
        """The requests that enter the engine together, marked where their key is below its share then."""
        if len(self._keys) == 1:
            return requests
        return [
            msgspec.structs.replace(one, below_share=True) if self._below_share(one) else one
            for one in requests
        ]

    def stepped(self, outputs: list[StepOutput]) -> None:
        """The engine made a step, with these outputs."""
        self._step += 1
        self.began(outputs)

    def began(self, outputs: list[StepOutput]) -> None:
        """The engine has begun with the requests of these outputs."""
        if self._unstarted:
            for output in outputs:
                self._unstarted_tokens -= self._unstarted.pop(output.request_id, 0)

    def ended(self, request_id: str) -> None:
        """A request is no longer in the engine. Others are ignored."""
        key = self._in_engine.pop(request_id, None)
        if key is not None:
            key.settle(self._step)
            key.places -= 1
            self._unstarted_tokens -= self._unstarted.pop(request_id, 0)

    def remove(self, request_id: str) -> bool:
        """Remove a request that waits. Returns whether it did."""
        one = self._waiting.get(request_id)
        if one is None:
            return False
        self._take_out(one)
        return True

    def _choose(self) -> _Key | None:
        """The key whose turn it is, among those that may have another place."""
        best: _Key | None = None
        for key in self._keys.values():
            if not key.waiting or not self._has_place(key):
                continue
            key.settle(self._step)
            if best is None or _turn(key) < _turn(best):
                best = key
        return best

    def _has_place(self, key: _Key) -> bool:
        """Whether the batch has a place for the key: the reserved ones are for keys below their share."""
        places = self._info.max_batch_size
        free = places - len(self._in_engine)
        if self._in_use == 1:
            return free + self._info.lookahead > 0
        reserved = max(places // RESERVED, int(places >= 4))
        return free > reserved or (free > 0 and key.places < max(1, places // self._in_use))

    def _below_share(self, request: GenerationRequest) -> bool:
        """Whether the key of a request in the engine has at most half of an equal share of the places in use.

        Nor may it have a lower priority than another key there. How much of the time it takes by short
        answers to long prompts is for the engine to bound.
        """
        key = self._in_engine[request.request_id]
        others = [other for other in self._keys.values() if other.places and other is not key]
        if not others or 2 * key.places * (len(others) + 1) > len(self._in_engine):
            return False
        if request.priority is not None and request.priority < key.priority:
            return False
        return all(key.priority >= other.priority for other in others)

    def _may_begin(self, request: GenerationRequest, stats: EngineStats) -> bool:
        """Whether the engine can begin the prompt soon: within its step's tokens and its KV cache."""
        if not self._unstarted:
            return True
        tokens = self._unstarted_tokens + len(request.prompt_token_ids)
        block = self._info.kv_block_size
        if block and stats.kv_blocks_total:
            free = stats.kv_blocks_total - stats.kv_blocks_used - len(self._in_engine)
            if tokens > free * block:
                return False
        return tokens <= self._window

    def _enter(self, key: _Key, request: GenerationRequest) -> None:
        tokens = len(request.prompt_token_ids)
        self._in_engine[request.request_id] = key
        self._unstarted[request.request_id] = tokens
        self._unstarted_tokens += tokens
        key.settle(self._step)
        key.places += 1
        key.turn = next(self._order)
        key.served += PROMPT_WEIGHT * tokens
        self._last_served = key.served

    def _for_engine(self, one: _Waiting, now: float) -> GenerationRequest:
        """The request with what is left of its time, and no priority above its key's."""
        request, waited_ms = one.request, (now - one.since) * 1000
        priority = request.priority
        if priority is not None or request.key_priority != DEFAULT_PRIORITY:
            most = request.key_priority
            priority = most if priority is None else min(priority, most)
            if not self._info.capabilities.priority:
                priority = None
        return msgspec.structs.replace(
            request,
            priority=priority,
            allotted_ms=None
            if request.allotted_ms is None
            else max(1, round(request.allotted_ms - waited_ms)),
            waited_ms=waited_ms,
        )

    def _floor(self) -> float:
        """The least that the counter of a key that begins to wait may be."""
        counters = []
        for key in self._keys.values():
            if key.waiting:
                key.settle(self._step)
                counters.append(key.served)
        return min(counters, default=self._last_served)

    def _take_out(self, one: _Waiting) -> None:
        del self._waiting[one.request.request_id]
        one.gone = True
        one.key.waiting -= 1
        if not one.key.waiting:
            one.key.heap.clear()


def _turn(key: _Key) -> tuple[float, float, int, int]:
    """The lowest is next: by priority and counter; if a lift made these equal, by the last turn."""
    return -key.priority, key.served, key.places, key.turn
