"""The latest failures of one process: requests that the server failed or refused, and warnings of its log.

Equal failures are one entry with a count, so that a flood of refusals does not push out the crash that caused
it. Nothing of a request's content is kept: a client error's message may quote it, so only its code is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from trtllm_openai.telemetry.record import RequestRecord

KEPT = 50
"""Different failures that are kept; beyond it the one that was not seen for longest goes."""
MAX_LENGTH = 500
"""Characters of a log message that are kept."""
_FAILED_ENDS = frozenset({"timeout", "error"})


class Failure(msgspec.Struct, array_like=True):
    """One failure, seen `count` times, last at `at` (Unix seconds).

    `process`: `http`, `http-N` for worker N, `supervisor`. `what`: method and route, or the logger. `reason`:
    an error's code, why a stream ended, or the log message. `status`: of a response, else 0.
    """

    at: float
    process: str
    what: str
    reason: str
    level: str = "error"
    status: int = 0
    request_id: str = ""
    """Of the latest request; the log has the rest."""
    count: int = 1


@dataclass(slots=True)
class Failures:
    """A bounded collection of failures. Any thread may add to it."""

    process: str
    _entries: dict[tuple[str, str], Failure] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, failure: Failure) -> None:
        """Add a failure, or count it if there is an equal one."""
        key = failure.what, failure.reason
        with self._lock:
            before = self._entries.pop(key, None)
            if before is not None:
                failure.count += before.count
            elif len(self._entries) >= KEPT:
                del self._entries[next(iter(self._entries))]
            self._entries[key] = failure

    def add_request(self, record: RequestRecord) -> None:
        """Add a finished request if the server failed it, refused it for its load, or cut its stream."""
        end = record.generation.end if record.generation is not None else ""
        if record.status < 500 and record.status != 429 and end not in _FAILED_ENDS:
            return
        self.add(
            Failure(
                at=time.time(),
                process=self.process,
                what=f"{record.method} {record.route}",
                reason=record.code or end or f"status {record.status}",
                level="warning" if record.status == 429 else "error",
                status=record.status,
                request_id=record.request_id,
            )
        )

    def recent(self) -> list[Failure]:
        """All that are kept, the latest first."""
        with self._lock:
            return list(reversed(self._entries.values()))


class FailureHandler(logging.Handler):
    """Adds warnings and errors of the server's own loggers. Detach it with `close`."""

    def __init__(self, failures: Failures) -> None:
        super().__init__(logging.WARNING)
        self._failures = failures
        self._logger = logging.getLogger("trtllm_openai")
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message; never the traceback."""
        try:
            reason = record.getMessage()[:MAX_LENGTH]
        except Exception:
            self.handleError(record)
            return
        what = record.name.removeprefix("trtllm_openai.")
        level = record.levelname.lower()
        self._failures.add(Failure(record.created, self._failures.process, what, reason, level))

    def close(self) -> None:
        self._logger.removeHandler(self)
        super().close()


def latest(every: Iterable[list[Failure]]) -> list[Failure]:
    """The latest of several processes, the latest first."""
    return sorted((one for some in every for one in some), key=lambda one: -one.at)[:KEPT]
