"""Phases of a runner, and what health checks, admins and HTTP processes are told about all of them.

    STARTING ──▶ LOADING ──▶ READY ◀──▶ UNRESPONSIVE
        ▲            │          │             │
        │            └──────────┼─────────────┤──▶ DRAINING (restart, or the end)
        │                       ▼             ▼        │
        └──(after a delay)── FAILED ◀──────────────────┘
        └──(on request, or after a long pause)── GIVEN_UP ◀── FAILED

Every phase but GIVEN_UP may turn into FAILED. STARTING may turn into any other: an HTTP process that comes
later first hears of a runner in the phase that it has by then. DRAINING turns back into READY when a runner
that was not needed is needed again, or into STARTING for an HTTP process that is not connected to it yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from trtllm_openai.processes.address import TcpAddress, parse_address


class Phase(StrEnum):
    """Where a runner is in its life. The values are what `/admin/runners` shows."""

    STARTING = "starting"
    """It is being launched, or nothing was heard of it yet."""
    LOADING = "loading"
    """It reports the progress of loading its engine."""
    READY = "ready"
    """It takes requests."""
    UNRESPONSIVE = "unresponsive"
    """Requests run and it gives no result; it gets new ones only if no runner is ready."""
    DRAINING = "draining"
    """It takes no new requests; once its requests are done it is restarted, or ended as it is not needed."""
    FAILED = "failed"
    """It serves nobody. Its process is ended, if it does not end by itself, and another is started."""
    GIVEN_UP = "given_up"
    """It cannot start: it is tried again after a long pause, or on request."""


COMING = (Phase.STARTING, Phase.LOADING)
TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.STARTING: frozenset(Phase),
    Phase.LOADING: frozenset(Phase) - {Phase.STARTING, Phase.GIVEN_UP},
    Phase.READY: frozenset({Phase.UNRESPONSIVE, Phase.DRAINING, Phase.FAILED}),
    Phase.UNRESPONSIVE: frozenset({Phase.READY, Phase.UNRESPONSIVE, Phase.DRAINING, Phase.FAILED}),
    Phase.DRAINING: frozenset({Phase.FAILED, Phase.READY, Phase.STARTING}),
    Phase.FAILED: frozenset({Phase.STARTING, Phase.GIVEN_UP}),
    Phase.GIVEN_UP: frozenset({Phase.STARTING}),
}
"""Legal transitions. One from a phase to itself changes the reason only."""

_IN_WORDS: dict[Phase, str] = {
    Phase.STARTING: "is being started",
    Phase.LOADING: "is loading: ",
    Phase.READY: "is ready",
    Phase.UNRESPONSIVE: "is unresponsive: ",
    Phase.DRAINING: "is draining ",
    Phase.FAILED: "failed and is started again: ",
    Phase.GIVEN_UP: "was given up: ",
}
_WITH_REASON = frozenset(Phase) - {Phase.STARTING, Phase.READY}


class Endpoint(msgspec.Struct, frozen=True):
    """How to reach a runner. `secret` authenticates TCP connections, `identity` encrypts them; neither is
    printed."""

    address: str
    """`unix:/path` or `tcp://host:port`"""
    secret: str = ""
    identity: str = ""

    @property
    def node(self) -> str | None:
        """The machine in the address, if it names one."""
        where = parse_address(self.address)
        return where.host if isinstance(where, TcpAddress) else None

    def __repr__(self) -> str:
        return f"Endpoint({self.address!r})"


class RunnerState(msgspec.Struct, frozen=True, kw_only=True):
    """One runner at one moment."""

    index: int
    state: Phase
    reason: str = ""
    loaded: float = 0.0
    """Share of the loading that is done (0..1)."""
    pid: int | None = None
    sequences: int = 0
    """Live sequences on it."""
    node: str | None = None
    """Address of its machine, if that is another one or may be."""
    gpus: str | None = None
    """Its CUDA_VISIBLE_DEVICES; None where the server does not choose."""
    endpoint: Endpoint | None = None
    """How to reach it, while it may be reached."""
    retiring: bool = False
    """It is not needed any more and ends once its requests are done."""

    def __str__(self) -> str:
        reason = self.reason if self.state in _WITH_REASON else ""
        return f"runner {self.index} {_IN_WORDS[self.state]}{reason}"


class RunnerReport(msgspec.Struct, frozen=True, tag="runners", array_like=True):
    """All runners: for admins, and for HTTP workers, which connect to them.

    `wanted`: how many there should be, without those that are retiring.
    """

    runners: list[RunnerState]
    restarts: int
    wanted: int


class RunnerUnresponsive(msgspec.Struct, tag="quiet", array_like=True):
    """From a process that waits: the runner at `address` sent nothing for `seconds`. Empty `reason`: it has
    recovered."""

    address: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """Readiness of a pool: `ready` of `total` runners, and why the others are not.

    Runners that are retiring do not count.
    """

    ready: int
    total: int
    progress: float
    """Share of the loading that is done, over all runners (0..1)."""
    reason: str
    """The runners that are not ready, in words; empty when all are."""
    failed: bool
    """Every runner was given up, so that none will be ready soon."""

    @classmethod
    def of(cls, states: Sequence[RunnerState]) -> PoolStatus:
        """Summarize the states of all runners, at least one."""
        states = [one for one in states if not one.retiring] or states
        missing = [one for one in states if one.state is not Phase.READY]
        return cls(
            ready=len(states) - len(missing),
            total=len(states),
            progress=sum(one.loaded for one in states) / len(states),
            reason="; ".join(map(str, missing)),
            failed=all(one.state is Phase.GIVEN_UP for one in states),
        )
