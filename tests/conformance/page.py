"""docs/conformance.md, from what the tests saw."""

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
HEAD = """\
# Conformance

Written by `make conformance`, which drives a started server on the demo model with each client. A dash: the
client has no such feature, or its suite does not test it.
"""

Row = tuple[str, bool, str]
"""A feature, whether it works, and, where it does not, why."""


def write(results: dict[str, list[Row]]) -> None:
    """`results`: the rows of each client. Clients with the same features share a table."""
    shared = [name for name in results if name in SHARED]
    features = list(dict.fromkeys(row[0] for name in shared for row in results[name]))
    lines = [HEAD, _line("feature", *shared), _line(*["---"] * (len(shared) + 1))]
    for feature in features:
        cells = []
        for name in shared:
            found = {row[0]: row[1] for row in results[name]}
            cells.append("-" if feature not in found else "yes" if found[feature] else "no")
        lines.append(_line(feature, *cells))
    for name, rows in results.items():
        if name not in SHARED:
            passed = sum(row[1] for row in rows)
            lines += [
                "",
                f"## {name}",
                "",
                f"{passed} of {len(rows)}.",
                "",
                _line("test", "passes", "why not"),
            ]
            lines.append(_line("---", "---", "---"))
            lines += [_line(test, "yes" if ok else "no", "" if ok else why) for test, ok, why in rows]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


SHARED = ("openai (Python)", "openai (Node)", "@ai-sdk/openai-compatible")


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
