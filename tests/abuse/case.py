"""The type of a case of abuse, and the promises of SECURITY.md that cases are about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.abuse.target import Target

ISOLATION, KEYS, BOUNDS = "Isolation of requests", "Keys", "Bounds"
WORK, VALUES, GUIDES = "Work of one request", "Values", "Guides"
DATA, LOGS, DOWNLOADS = "Input is data", "Logs and traces", "Nothing is downloaded"
CRASH = "A crash stays local"


@dataclass(frozen=True, slots=True)
class Case:
    """`attack` returns answers in the form of `said`; `expected` is all of them, without repetition.

    `short`: whether `make test` runs it. `full`: whether `make abuse` does. `peak_mib`: how much more memory
    the HTTP process may have meanwhile.
    """

    promise: str
    name: str
    attack: Callable[[Target], str]
    expected: str
    short: bool = True
    peak_mib: int = 256
    full: bool = True
