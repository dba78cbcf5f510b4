"""Rows of the printed table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One check. `fact` is what was seen; of a failed one, what differs from what was expected."""

    name: str
    ok: bool
    fact: str = ""


class DifferenceError(AssertionError):
    """What was seen is not what the server relies on."""


def expect(condition: object, difference: str) -> None:
    """Raises `DifferenceError` with `difference` unless `condition` holds."""
    if not condition:
        raise DifferenceError(difference)


def same(one: str, other: str) -> str:
    """The text. Raises `DifferenceError` unless both are equal."""
    expect(one == other, f"{one!r} is not {other!r}")
    return one


def row(name: str, check: Callable[[], Any]) -> Row:
    """Run a check, which returns what it saw or raises."""
    try:
        fact = check()
    except DifferenceError as error:
        return Row(name, False, str(error))
    except Exception as error:  # whatever it is, it belongs into the table
        return Row(name, False, f"{type(error).__name__}: {error}".split("\n")[0])
    return Row(name, True, fact if isinstance(fact, str) else "")


def rows(checks: dict[str, Callable[[], Any]]) -> list[Row]:
    """Run checks in order."""
    return [row(name, check) for name, check in checks.items()]


def printed(table: list[Row]) -> str:
    """The table as text, a line for each row."""
    width = max(len(one.name) for one in table)
    return "\n".join(f"{'OK' if one.ok else 'FAIL':4}  {one.name:{width}}  {one.fact}" for one in table)
