"""The parameter table as Markdown, and the command that writes it into a page.

`python -m trtllm_openai.generation.docs docs/api.md` replaces the text between the page's two markers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from trtllm_openai.generation.parameters import PARAMETERS, Row

BEGIN = "<!-- parameters: written by python -m trtllm_openai.generation.docs -->"
END = "<!-- end of parameters -->"


def table(rows: Collection[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| field | type | range | needs | |", "|---|---|---|---|---|"]
    for row in rows:
        needs = f"`{row.parameter.capability}`" if row.parameter.capability else ""
        lines.append(f"| `{row.name}` | {row.kind} | {_range(row)} | {needs} | {row.description} |")
    return "\n".join(lines)


def _range(row: Row) -> str:
    parameter = row.parameter
    low = parameter.minimum if parameter.above is None else parameter.above
    if low is None:
        return ""
    relation = "≥" if parameter.above is None else ">"
    if parameter.maximum is None or parameter.maximum >= 2**31 - 1:
        return "64 bits, signed" if low < -1 else f"{relation} {low:g}"
    return f"{low:g} to {parameter.maximum:g}" if relation == "≥" else f"> {low:g}, ≤ {parameter.maximum:g}"


def updated(page: str, rows: Collection[Row] = PARAMETERS) -> str:
    """`page` with the current table between its markers. Raises `ValueError` where a marker is missing."""
    return between(page, BEGIN, END, table(rows))


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


def main(arguments: Sequence[str]) -> int:
    """Update the pages named in `arguments`."""
    return update_pages(arguments, updated)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
