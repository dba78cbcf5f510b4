"""Pages of the documentation of which the code writes a part, between two markers.

A module that writes one has `updated(page)`, and a command `python -m MODULE PAGE…`; its test says when the
page is not what the code says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path


def between(page: str, begin: str, end: str, text: str) -> str:
    """`page` with `text` between its two markers. Raises `ValueError` where a marker is missing."""
    start = page.index(begin) + len(begin)
    return f"{page[:start]}\n{text}\n{page[page.index(end, start) :]}"


def update_pages(names: Sequence[str], update: Callable[[str], str]) -> int:
    """Apply `update` to the text of the files `names`. Returns the exit status."""
    for name in names:
        path = Path(name)
        path.write_text(update(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 0
