"""Where the runners stand, one by one and together: what health checks, admins and HTTP workers are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

Phase = Literal["starting", "loading", "ready", "stalled", "restarting", "given_up"]
_IN_WORDS: dict[Phase, str] = {
    "starting": "is being started",
    "loading": "is loading: ",
    "stalled": "is stalled: it ",
    "restarting": "is restarted on request",
    "given_up": "was given up: ",
}


class RunnerState(msgspec.Struct, frozen=True, kw_only=True):
    """One runner at one moment."""

    index: int
    state: Phase
    reason: str = ""
    loaded: float = 0.0
    """Share of its loading that is done (0..1)."""
    pid: int | None = None
    sequences: int = 0
    """Live on it."""
    address: str = ""
    """Where it can be reached, while it has a process."""


class RunnerReport(msgspec.Struct, frozen=True, tag="runners", array_like=True):
    """Every runner: for an admin, and for workers, who attach to them."""

    runners: list[RunnerState]
    restarts: int


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """Where the pool stands: `ready` of `total` runners, and why the others are not."""

    ready: int
    total: int
    progress: float
    """Share of the loading that is done, over all runners (0..1)."""
    reason: str
    """What is missing, in words; empty when every runner is ready."""
    failed: bool
    """No runner is ready and none will be."""

    @classmethod
    def of(cls, states: Sequence[RunnerState]) -> PoolStatus:
        """What the states of all runners come to."""
        missing = [one for one in states if one.state != "ready"]
        return cls(
            ready=len(states) - len(missing),
            total=len(states),
            progress=sum(one.loaded for one in states) / len(states),
            reason="; ".join(f"runner {one.index} {_IN_WORDS[one.state]}{one.reason}" for one in missing),
            failed=all(one.state == "given_up" for one in states),
        )
