"""The parameter table as Markdown, and the command that writes it into a page.

`python -m trtllm_openai.generation.docs docs/api.md` replaces the text between the page's two markers.
"""

from __future__ import annotations

import sys
from collections.abc import Collection

from trtllm_openai.generation.parameters import PARAMETERS, Row
from trtllm_openai.pages import Part


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


PART = Part("parameters", "trtllm_openai.generation.docs", lambda: table(PARAMETERS))

if __name__ == "__main__":
    sys.exit(PART.main(sys.argv[1:]))
