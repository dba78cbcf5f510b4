"""Counters, gauges and histograms of one process, without locks or a registry, so that updates are cheap.

A `Snapshot` holds their values at one moment, in structs that msgspec encodes as arrays. `merged` combines
the snapshots of several processes: values are summed, except those of `shared` metrics, which every process
reports alike.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import msgspec


@dataclass(frozen=True, slots=True)
class Definition:
    """Definition of a metric. `name` excludes the prefix and `_total`.

    `bounds`: upper bounds of a histogram's buckets, without infinity. `shared`: every process reports the
    same value, which is therefore not summed.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    shared: bool = False


class Series(msgspec.Struct, array_like=True):
    """The value of a metric for one combination of label values.

    For a histogram `value` is the sum, and `buckets` has the count of each bucket (not cumulative; the last
    one is above every bound).
    """

    labels: list[str]
    value: float
    buckets: list[int] = []


Snapshot = dict[str, list[Series]]
"""Maps metric names to series."""


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
    """A histogram with fixed buckets."""

    __slots__ = ("_bounds", "buckets", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Record `value`, `times` times."""
        self.buckets[bisect_left(self._bounds, value)] += times
        self.sum += value * times

    def series(self, labels: list[str]) -> Series:
        return Series(labels, self.sum, list(self.buckets))


M = TypeVar("M", Number, Histogram)


class Labelled(Generic[M]):
    """A metric with labels: one child, which `make` makes, per combination of label values seen so far."""

    __slots__ = ("_make", "children")

    def __init__(self, make: Callable[[], M]) -> None:
        self._make: Callable[[], M] = make
        self.children: dict[tuple[str, ...], M] = {}

    def labels(self, *values: str) -> M:
        """The child for these label values, given in the order of the definition."""
        child = self.children.get(values)
        if child is None:
            child = self.children[values] = self._make()
        return child


def series_of(metric: Number | Histogram | Labelled[Number] | Labelled[Histogram]) -> list[Series]:
    """The current series of a metric."""
    if isinstance(metric, Labelled):
        return [child.series(list(values)) for values, child in metric.children.items()]
    return [metric.series([])]


def merged(snapshots: Iterable[Snapshot], definitions: Mapping[str, Definition]) -> Snapshot:
    """Merge snapshots of several processes: sum each series; for shared metrics take the maximum."""
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
                    before.buckets = [max(pair) for pair in zip(before.buckets, series.buckets, strict=True)]
                else:
                    before.value += series.value
                    before.buckets = [a + b for a, b in zip(before.buckets, series.buckets, strict=True)]
    return {name: list(known.values()) for name, known in result.items()}


def totals(snapshot: Snapshot, definitions: Mapping[str, Definition]) -> Snapshot:
    """The part of a snapshot that outlives its process: counters and histograms that are not shared."""
    return {
        name: every
        for name, every in snapshot.items()
        if definitions[name].kind != "gauge" and not definitions[name].shared
    }
