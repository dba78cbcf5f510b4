"""Finds a marker in streamed text."""

from __future__ import annotations


def split_at(text: str, marker: str) -> tuple[str, str | None]:
    """Text before the marker and text after it; (safe text, None) if the marker is not there yet.

    The safe text ends before a suffix that could become the marker. The caller passes that suffix again, with
    the text that follows it.
    """
    before, found, after = text.partition(marker)
    if found:
        return before, after
    return text[: len(text) - overlap(text, marker)], None


def overlap(text: str, marker: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `marker`."""
    place = text.find(marker[0], max(len(text) - len(marker) + 1, 0))
    while place >= 0 and not marker.startswith(text[place:]):
        place = text.find(marker[0], place + 1)
    return len(text) - place if place >= 0 else 0


def could_begin(text: str, marker: str) -> bool:
    """Whether `text` is a prefix of `marker`, possibly empty."""
    return marker.startswith(text)


def split_at_any(text: str, markers: tuple[str, ...]) -> tuple[str, str | None]:
    """Text before the first of several markers, and that marker; (safe text, None) if there is none yet.

    Where two begin at the same place it is the longer one.
    """
    places = [(place, -len(marker), marker) for marker in markers if (place := text.find(marker)) >= 0]
    if places:
        place, _, marker = min(places)
        return text[:place], marker
    return text[: len(text) - max(overlap(text, marker) for marker in markers)], None
