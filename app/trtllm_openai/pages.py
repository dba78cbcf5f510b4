"""Pages of the documentation of which the code writes a part, between two markers.

A module that writes one has it as its `PART`, and a command `python -m MODULE PAGE…`; its test says when the
page is not what the code says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """The part `name` of a page, which `module` writes: `text()` between two markers that name both."""

    name: str
    module: str
    text: Callable[[], str]

    def updated(self, page: str) -> str:
        """`page` with the current text. Raises `ValueError` where a marker is missing."""
        begin = f"<!-- {self.name}: written by python -m {self.module} -->"
        return between(page, begin, f"<!-- end of {self.name} -->", self.text())

    def main(self, arguments: Sequence[str]) -> int:
        """Update the pages named in `arguments`. Returns the exit status."""
        return update_pages(arguments, self.updated)


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
