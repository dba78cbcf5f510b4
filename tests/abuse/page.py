"""Writes the tables of docs/security.md: promises with the tests that show them, and what was measured."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.abuse.case import Case
from tests.abuse.promises import PROMISES
from tests.e2e.conftest import ROOT

PAGE = ROOT / "docs" / "security.md"
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Row:
    """Measurements of a case: `sent`, `peak`, `growth` in bytes, `stop` and `gap` in seconds.

    `stop`, `gap`: the least of the rounds, since other load can only increase them. `peak`: of the HTTP
    process above what it had before. `growth`: of the process that grew most, in the last round.
    """

    case: Case
    sent: int
    stop: float
    gap: float
    peak: int
    growth: int


def write(rows: list[Row], outcomes: dict[str, bool], resting: dict[str, list[int]]) -> None:
    """Write all results. `outcomes`: of other tests, by id. `resting`: bytes, as `Abused` has it."""
    text = PAGE.read_text()
    text = _replaced(text, "promises", list(_promises(rows, outcomes)))
    PAGE.write_text(_replaced(text, "measured", [*_measured(rows), "", _memory(resting)]))


def block(text: str, name: str) -> str:
    """A generated part of the page."""
    begin, end = _span(text, name)
    return text[begin:end]


def _span(text: str, name: str) -> tuple[int, int]:
    found = re.search(rf"<!-- {name}: .*?-->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert found, f"docs/security.md has no part '{name}'"
    return found.span(1)


def _replaced(text: str, name: str, lines: list[str]) -> str:
    begin, end = _span(text, name)
    return "\n".join([text[:begin], *lines, "", text[end:]])


def _promises(rows: list[Row], outcomes: dict[str, bool]) -> Iterator[str]:
    yield _line("promise", "claim", "shown by", "result")
    yield _line(*["---"] * 4)
    for promise, claims in PROMISES.items():
        mine = [row for row in rows if row.case.promise == promise]
        if mine:
            stop, gap = max(row.stop for row in mine), max(row.gap for row in mine)
            result = f"cases as expected: {len(mine)}; longest stop {_ms(stop)} ms, gap {_ms(gap)} ms"
            yield _line(f"**{promise}**", "the cases [below](#measured)", "`tests/abuse`", result)
        for claim, names in claims.items():
            found = [ok for test, ok in outcomes.items() if any(_belongs(test, name) for name in names)]
            assert found, f"none of {names} ran"
            result = f"{sum(found)} of {len(found)} tests pass"
            yield _line(f"**{promise}**", claim, ", ".join(f"`{name}`" for name in names), result)


def _belongs(test: str, name: str) -> bool:
    return test == name or test.startswith((f"{name}::", f"{name}["))


def _measured(rows: list[Row]) -> Iterator[str]:
    yield _line("promise", "case", "answer", "MB", "stop, ms", "gap, ms", "peak, MiB", "growth, MiB")
    yield _line(*["---"] * 8)
    for row in rows:
        sizes = (f"{row.peak / MIB:.0f}", f"{row.growth / MIB:+.1f}")
        sent = f"{row.sent / 1e6:.1f}"
        yield _line(
            row.case.promise, cell(row.case), row.case.expected, sent, _ms(row.stop), _ms(row.gap), *sizes
        )


def cell(case: Case) -> str:
    """The name of a case in a cell."""
    return case.name.replace("|", "\\|")


def _memory(resting: dict[str, list[int]]) -> str:
    told = [f"{name} {', '.join(f'{size / MIB:.0f}' for size in sizes)}" for name, sizes in resting.items()]
    return f"Resident memory at rest before all cases and after each round, MiB: {'; '.join(told)}."


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
