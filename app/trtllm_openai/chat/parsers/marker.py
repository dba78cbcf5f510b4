"""Finding a marker in a text that comes in pieces."""

from __future__ import annotations


def split_at(text: str, marker: str) -> tuple[str, str | None]:
    """What precedes the marker, and what follows it; None when it is not there (yet).

    Without the marker, the first part stops before anything that could still become one: the rest of
    `text` must be offered again, with more after it.
    """
    before, found, after = text.partition(marker)
    if found:
        return before, after
    return text[: len(text) - overlap(text, marker)], None


def overlap(text: str, marker: str) -> int:
    """How many characters at the end of `text` are a beginning of `marker`."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0


def could_begin(text: str, marker: str) -> bool:
    """Whether `text` is a beginning of `marker`, or nothing."""
    return marker.startswith(text)
