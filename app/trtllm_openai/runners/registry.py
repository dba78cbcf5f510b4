"""The registry of a pool that several front machines share: who is there, who leads, and what runs.

A front machine calls `sync` every `SYNC_S`, which renews its lease. One of them leads: it alone starts,
scales and ends runners, and publishes their `RunnerReport`, from which the others know how to reach them.
When its lease ends, the next one that calls leads, under a higher term; what the old one says then no longer
counts. A registry that was lost and made again learns the latest report from its callers: it makes nobody the
leader for one lease, so that the one that leads can say so.

Has a clock and no other connection to the world: `ray_registry` makes an actor of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

SYNC_S = 0.5
LEASE_S = 10.0
"""Seconds without a word after which a front machine counts as gone."""


MOST_ORDERS = 1000


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A request of a front machine to the leader.

    With `index`: restart that runner, drained for `seconds` at most. With `address`: `observer` gets no
    result from the runner there since so many `seconds` (an empty `reason`: it does again). With neither:
    `observer` is gone.
    """

    observer: str
    index: int | None = None
    address: str = ""
    reason: str = ""
    seconds: float = 0.0


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """A heartbeat of a front machine. `settings`: hashes of the settings that all must share, by name."""

    front: str
    settings: dict[str, str]
    term: int = 0
    """The highest term that it knows of."""
    revision: int = 0
    """The report that it has is this one of that term."""
    leads: bool = False
    """Whether it leads under `term`."""
    report: bytes | None = None
    """The leader's new report, or the one that a front has and a registry made again lacks."""
    orders: list[Order] = []


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to it. `report` is None if the sender has the latest; `orders` are for the leader only."""

    leader: str
    term: int
    revision: int
    report: bytes | None = None
    fronts: list[str] = []
    orders: list[Order] = []
    differs: list[str] = []
    """Settings in which it differs from those that are there: it may not join."""


class Registry:
    """See the module. `forgotten`: an earlier one was lost, and its callers know more."""

    def __init__(self, *, forgotten: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._leases: dict[str, float] = {}
        self._settings: dict[str, str] = {}
        self._leader = ""
        self._term = 0
        self._revision = 0
        self._report: bytes | None = None
        self._orders: list[Order] = []
        self._elect_from = clock() + LEASE_S if forgotten else 0.0

    def sync(self, beat: Beat) -> View:
        """Renew a lease, take what is said, and tell what there is."""
        now = self._clock()
        self._leases = {front: until for front, until in self._leases.items() if until > now}
        if not self._leases:
            self._settings = beat.settings
        names = self._settings.keys() | beat.settings.keys()
        if differs := sorted(name for name in names if self._settings.get(name) != beat.settings.get(name)):
            return View(leader="", term=0, revision=0, differs=differs)
        self._leases[beat.front] = now + LEASE_S
        self._hear(beat)
        if self._leader not in self._leases and now >= self._elect_from:
            self._leader, self._term = beat.front, self._term + 1
        self._orders = [*self._orders, *beat.orders][-MOST_ORDERS:]
        orders: list[Order] = []
        if self._leader == beat.front:
            orders, self._orders = self._orders, []
        known = (beat.term, beat.revision) == (self._term, self._revision)
        return View(
            leader=self._leader,
            term=self._term,
            revision=self._revision,
            report=None if known else self._report,
            fronts=sorted(self._leases),
            orders=orders,
        )

    def leads(self, front: str, term: int) -> bool:
        """Whether this one leads under this term, now."""
        alive = self._leases.get(front, 0.0) > self._clock()
        return alive and (self._leader, self._term) == (front, term)

    def leave(self, front: str) -> int:
        """A front machine goes. Returns how many are left; the next of them that calls leads."""
        self._leases.pop(front, None)
        if self._leader == front:
            self._leader = ""
        now = self._clock()
        return sum(until > now for until in self._leases.values())

    def _hear(self, beat: Beat) -> None:
        """Take the leader's report; and what others know, if this registry was made again."""
        unled = not self._leader and beat.term >= self._term
        if beat.leads and (unled or (self._leader, self._term) == (beat.front, beat.term)):
            self._leader, self._term = beat.front, beat.term
            if beat.report is not None:
                self._report, self._revision = beat.report, max(self._revision, beat.revision) + 1
        elif beat.report is not None and (beat.term, beat.revision) > (self._term, self._revision):
            self._term, self._revision, self._report = beat.term, beat.revision, beat.report
