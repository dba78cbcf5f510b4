"""Counters, gauges and histograms as plain numbers of one process: no locks, no registry, cheap to change.

A `Snapshot` is what they come to at one moment, in structs that msgspec sends as plain lists. Snapshots of
several processes become one by `merged`: everything is added up, but for what its definition calls `shared`,
which every process sees alike.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric: its name without prefix and without `_total`, what it says, and its labels.

    `bounds`: upper bounds of a histogram's buckets, without infinity. `shared`: see the module.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    shared: bool = False


class Series(msgspec.Struct, array_like=True):
    """One combination of label values. `value` is a histogram's sum, `buckets` what fell into each of its
    buckets (not cumulative; the last one is above every bound).
    """

    labels: list[str]
    value: float
    buckets: list[int] = []


Snapshot = dict[str, list[Series]]
"""The series of each metric, by its name."""


class Number:
    """A counter or a gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def dec(self, amount: float = 1) -> None:
        self.value -= amount

    def set(self, value: float) -> None:
        self.value = value

    def series(self, labels: list[str]) -> Series:
        return Series(labels, self.value)


class Histogram:
    """How often a value fell into each bucket."""

    __slots__ = ("_bounds", "buckets", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, as if it had been observed `times` times."""
        self.buckets[bisect_left(self._bounds, value)] += times
        self.sum += value * times

    def series(self, labels: list[str]) -> Series:
        return Series(labels, self.sum, list(self.buckets))


class Labelled:
    """A counter or gauge for each combination of label values that came up."""

    __slots__ = ("children",)

    def __init__(self) -> None:
        self.children: dict[tuple[str, ...], Number] = {}

    def labels(self, *values: str) -> Number:
        """The one for these label values, in the order of the definition."""
        child = self.children.get(values)
        if child is None:
            child = self.children[values] = Number()
        return child


def series_of(metric: Number | Histogram | Labelled) -> list[Series]:
    """The series of a metric as they are now."""
    if isinstance(metric, Labelled):
        return [child.series(list(values)) for values, child in metric.children.items()]
    return [metric.series([])]


def merged(snapshots: Iterable[Snapshot], definitions: Mapping[str, Definition]) -> Snapshot:
    """Several processes' snapshots as one. Of what is shared the largest value counts, the latest total."""
    result: dict[str, dict[tuple[str, ...], Series]] = {}
    for snapshot in snapshots:
        for name, every in snapshot.items():
            known = result.setdefault(name, {})
            for series in every:
                before = known.get(tuple(series.labels))
                if before is None:
                    known[tuple(series.labels)] = Series(series.labels, series.value, list(series.buckets))
                elif definitions[name].shared:
                    before.value = max(before.value, series.value)
                else:
                    before.value += series.value
                    before.buckets = [a + b for a, b in zip(before.buckets, series.buckets, strict=True)]
    return {name: list(known.values()) for name, known in result.items()}


def totals(snapshot: Snapshot, definitions: Mapping[str, Definition]) -> Snapshot:
    """What stays of a process that is gone: what it counted, not what it had, nor what others see as well."""
    return {
        name: every
        for name, every in snapshot.items()
        if definitions[name].kind != "gauge" and not definitions[name].shared
    }
