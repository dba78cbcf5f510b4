"""Who sends a request: the name of its API key, and what is known and allowed for that name."""

from __future__ import annotations

from dataclasses import dataclass

OTHER_LABEL = "other"
"""Stands in metrics for every name beyond the number that may have a label of its own."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """The owner of API keys: all keys of one name."""

    name: str = ""
    """Empty when the server needs no keys."""
    label: str = ""
    """The name in metrics, or `OTHER_LABEL`."""


NOBODY = Tenant()
"""Sends every request of a server that needs no keys."""
