"""The decision: the runner on which a request costs least, and what is known of every runner for it.

Work is counted in tokens: the prompt tokens that a runner has yet to compute, and what its running sequences
cost, which is `SEQUENCE` and one for each `HELD` tokens. The cost of a request on a runner is the work that
the runner has, and the part of the prompt that is not in its cache. So a cached prefix draws requests until
the runner is ahead of the others by `DRAW` times the work that the prefix saves; and never when it has more
than `BALANCE` of what runners have on average and `SLACK` of the prompt beyond it, so that a long hot prefix
does not overload it.

What is in a cache is what this process sent, and what other processes sent, of which runners tell
(`engine_host/prefix_news.py`). How far that is right shows in `cached_tokens` of each sequence's first
output: `trust` is the share of what was foreseen that came true, and a prefix counts by that much, so that
routing is by work alone with an engine that caches nothing.

Candidates are the runners with the longest prefix, and the one with the least work of `LOOKED_AT`. Of more
runners another part is looked at each time; of many that several processes send to, whose work is known as
it was a moment ago, two drawn at random (Mitzenmacher, "The Power of Two Choices", 2001).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from trtllm_openai.engine_host.messages import Held
from trtllm_openai.generation import GenerationRequest
from trtllm_openai.runners.connection import SequenceWatch
from trtllm_openai.runners.routing.names import DEPTHS, prefix_names, seed
from trtllm_openai.runners.routing.table import PrefixTable

SEQUENCE = 300
HELD = 20
"""Work of a running sequence, what decoding it costs the others: so much, and one for so many tokens held."""
BALANCE = 1.25
SLACK = 0.25
LOOKED_AT = 16
DRAW = 1.5
"""Weight of a cached token. It is above 1, as computing the token on another runner also delays the sequences
there and evicts what is cached there."""
HOLDERS = 6
"""Runners with a prefix that are compared; one that many hold says little."""
HINTED = 0.5
"""Share of a prompt that the runner of its session is taken to hold, if nothing is known of its prefix."""
TRUST_STEP = 0.02
LEAST_TRUST = 0.02
FORESEEN = 256
"""Tokens that must have been foreseen to judge by."""
TYPICAL = 500.0
"""Work of a sequence of another process, before this one had any."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes."""

    index: int
    cached: int = 0
    """Prompt tokens that the runner should have in its cache."""
    level: int = 0
    """Number of names that it holds of the prompt."""
    name: int = 0
    """The last of these, or the seed of the first."""
    session: int = 0
    """Name of the session; 0: none."""


@dataclass(slots=True)
class _Live:
    """A sequence on a runner: tokens to compute until its first output, its work then, tokens foreseen."""

    index: int
    prefill: int
    held: int
    foreseen: int


class Router:
    """Chooses runners by their index. Is told of everything that is sent, begins and ends (`watch`)."""

    def __init__(
        self,
        *,
        shared: bool = False,
        affinity: bool = True,
        first_runner: int = 0,
        source: random.Random | None = None,
    ) -> None:
        """`shared`: other processes send to the same runners. Without `affinity` only work counts.

        `first_runner`: the first of those with equal work; another one for each process.
        """
        self.table = PrefixTable()
        self.trust = 1.0
        self.work: list[int] = []
        """Tokens, by runner."""
        self._shared = shared
        self._affinity = affinity
        self._first_runner = first_runner
        self._random = source or random.Random()
        self._own: list[int] = []
        self._elsewhere: list[int] = []  # sequences that other processes sent
        self._typical = TYPICAL
        self._ready: list[int] = []
        self._mask = 0
        self._total = 0
        self._next = 0
        self._live: dict[str, _Live] = {}

    def add_runner(self, index: int, capacity: int = 0) -> None:
        """A runner is there, or begins anew, with an empty cache for `capacity` tokens (0: unknown)."""
        while len(self.work) <= index:
            self.work.append(0)
            self._own.append(0)
            self._elsewhere.append(0)
        self.table.add_runner(index, capacity)

    def forget_runner(self, index: int) -> None:
        """A runner is gone with all it held; its sequences are no longer there."""
        self.table.forget(index)
        for request_id in [name for name, live in self._live.items() if live.index == index]:
            del self._live[request_id]
        if index < len(self.work):
            self._own[index], self._elsewhere[index] = 0, 0
            self._weigh(index)

    def set_ready(self, ready: Sequence[int]) -> None:
        """The runners that may be chosen."""
        self._ready = sorted(ready, key=lambda index: (index < self._first_runner, index))
        self._mask = sum(1 << index for index in ready)
        self._total = sum(self.work[index] for index in ready)

    @property
    def ready(self) -> bool:
        """Whether there is a runner to choose."""
        return bool(self._ready)

    def elsewhere(self, index: int, sequences: int) -> None:
        """A runner has so many sequences of other processes."""
        if sequences != self._elsewhere[index]:
            self._elsewhere[index] = sequences
            self._weigh(index)

    def choose(self, request: GenerationRequest, hint: str = "") -> Route:
        """The runner for a request. `hint`: names its session. There is a ready runner."""
        tokens = request.prompt_token_ids
        start = seed(request.cache_salt or "", request.adapter or "")
        if not self._affinity:
            return Route(self._least())
        session = seed(hint, str(start)) if hint else 0
        names, masks, known = [start], [], self._mask
        get = self.table.holders.get
        for name in prefix_names(tokens, start):
            known &= get(name, 0)
            if not known:
                break
            names.append(name)
            masks.append(known)
        index = self._least()
        if masks or session:
            of_session = get(session, 0) & self._mask if session else 0
            index = self._best(index, masks, of_session, len(tokens))
        level = _level(masks, 1 << index)
        return Route(index, DEPTHS[level - 1] if level else 0, level, names[level], session)

    def sent(self, route: Route, requests: Sequence[GenerationRequest]) -> list[Held]:
        """These are sent to the runner of `route`, which was chosen for the first of them.

        Returns what is new to that runner.
        """
        index, prompt = route.index, None
        for request in requests:
            length = len(request.prompt_token_ids)
            shares = request.prompt_token_ids is prompt  # with the one before it, which computes it
            prompt = request.prompt_token_ids
            cached = length if shares else route.cached if prompt is requests[0].prompt_token_ids else 0
            live = _Live(index, max(0, length - cached), SEQUENCE + length // HELD, 0 if shares else cached)
            self._live[request.request_id] = live
            self._own[index] += live.prefill + live.held
            self._typical += (live.held - self._typical) / 64
        self._weigh(index)
        if not self._affinity:
            return []
        names = list(prefix_names(requests[0].prompt_token_ids, route.name, route.level))
        news = [Held(route.level, names)] if names else []
        if route.session:
            news.append(Held(-1, [route.session]))
        self.heard(index, news)
        return news

    def heard(self, index: int, news: Sequence[Held]) -> None:
        """A runner holds these prefixes from now on."""
        for one in news:
            self.table.add(index, one.names, one.first)

    def begun(self, request_id: str, cached: int) -> None:
        """The first output of a sequence came: its prompt is computed, of which so much was cached."""
        live = self._live.get(request_id)
        if live is None:
            return
        self._own[live.index] -= live.prefill
        live.prefill = 0
        self._weigh(live.index)
        if live.foreseen >= FORESEEN:
            right = min(1.0, cached / live.foreseen)
            self.trust = max(LEAST_TRUST, self.trust + TRUST_STEP * (right - self.trust))

    def ended(self, request_id: str) -> None:
        """A sequence ended, however."""
        live = self._live.pop(request_id, None)
        if live is not None:
            self._own[live.index] -= live.prefill + live.held
            self._weigh(live.index)

    def watch(self, index: int) -> SequenceWatch:
        """What a connection to this runner is to tell."""
        return SequenceWatch(
            self.begun, self.ended, partial(self.elsewhere, index), partial(self.heard, index)
        )

    def _weigh(self, index: int) -> None:
        work = self._own[index] + self._elsewhere[index] * int(self._typical)
        if self._mask >> index & 1:
            self._total += work - self.work[index]
        self.work[index] = work

    def _least(self) -> int:
        """The runner with the least work, of those that are looked at."""
        ready = self._ready
        if self._shared and len(ready) > LOOKED_AT:
            one, other = self._random.choice(ready), self._random.choice(ready)
            return one if self.work[one] <= self.work[other] else other
        begin = self._next % len(ready)
        end = begin + min(LOOKED_AT, len(ready))
        looked_at = ready[begin:end] + ready[: max(0, end - len(ready))]
        self._next = begin + (LOOKED_AT if len(ready) > LOOKED_AT else 1)
        return min(looked_at, key=self.work.__getitem__)

    def _best(self, least: int, masks: list[int], session: int, length: int) -> int:
        """The cheapest of the runner with the least work and those that hold the longest prefix."""
        work, worth = self.work, DRAW * self.trust
        most = BALANCE * self._total / len(self._ready) + SLACK * length
        best, looked = least, 1 << least
        level = _level(masks, 1 << least)
        lowest = work[least] - worth * (DEPTHS[level - 1] if level else 0)
        left = HOLDERS
        for level in range(len(masks), 0, -1):
            mask = masks[level - 1] & ~looked
            while mask and left:
                bit = mask & -mask if left % 2 else 1 << (mask.bit_length() - 1)
                mask ^= bit
                looked |= bit
                left -= 1
                index = bit.bit_length() - 1
                cost = work[index] - worth * DEPTHS[level - 1]
                if cost < lowest and work[index] <= most:
                    best, lowest = index, cost
            if not left:
                break
        while session:
            bit = session & -session
            session ^= bit
            index = bit.bit_length() - 1
            cost = work[index] - HINTED * length
            if cost < lowest and work[index] <= most:
                best, lowest = index, cost
        return best


def _level(masks: list[int], bit: int) -> int:
    """How many levels of a prompt the runner of this bit holds."""
    for level in range(len(masks), 0, -1):
        if masks[level - 1] & bit:
            return level
    return 0
