"""Who sends a request: the name of its API key, and what is known and allowed for that name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

OTHER_LABEL = "other"
"""Stands in metrics for every name beyond the number that may have a label of its own."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one name may do; None is unlimited. In the keys file: `requests_per_minute=60 priority=0.3 …`."""

    requests_per_minute: int | None = None
    """Generating requests, refused ones too."""
    tokens_per_minute: int | None = None
    """Prompt and generated tokens."""
    concurrent: int | None = None
    """Requests at a time, in place of `limits.max_requests_per_key`."""
    max_tokens: int | None = None
    """Tokens to generate for one choice; the default of requests that do not say."""
    priority: float | None = None
    """Priority among keys, 0 to 1, and the highest that its requests may have in the engine; None: 0.5."""

    @classmethod
    def parse(cls, words: Iterable[str]) -> KeyLimits:
        """Read `name=value` words. Raises `ValueError` for what is none of them."""
        values: dict[str, float] = {}
        for word in words:
            name, _, text = word.partition("=")
            if name not in _NAMES or name in values:
                raise ValueError(f"{word!r} is not one of {', '.join(f'{known}=…' for known in _NAMES)}")
            values[name] = _value(name, text)
        return cls(**values)  # type: ignore[arg-type]

    def words(self) -> list[str]:
        """The limits as words that `parse` reads."""
        values = [(name, getattr(self, name)) for name in _NAMES]
        return [f"{name}={value}" for name, value in values if value is not None]

    @property
    def rated(self) -> bool:
        """Whether there is a limit for a minute."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None


_NAMES = tuple(field.name for field in fields(KeyLimits))
NO_LIMITS = KeyLimits()
MOST = 2**40


def _value(name: str, text: str) -> float:
    if name != "priority":
        if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= MOST:
            raise ValueError(f"{name} must be a whole number from 1")
        return int(text)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1")
    return value


@dataclass(frozen=True, slots=True)
class Tenant:
    """The owner of API keys: all keys of one name."""

    name: str = ""
    """Empty when the server needs no keys."""
    label: str = ""
    """The name in metrics, or `OTHER_LABEL`."""
    limits: KeyLimits = NO_LIMITS


NOBODY = Tenant()
"""Sends every request of a server that needs no keys."""
