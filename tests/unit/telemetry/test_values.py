"""Metrics as numbers of one process, and several processes as one."""

from trtllm_openai.telemetry.values import (
    Definition,
    Histogram,
    Labelled,
    Number,
    Series,
    merged,
    series_of,
    totals,
)

DEFINITIONS = {
    one.name: one
    for one in (
        Definition("count", "counter", "", ("a",)),
        Definition("now", "gauge", ""),
        Definition("same", "counter", "", shared=True),
        Definition("times", "histogram", "", bounds=(1.0, 2.0)),
    )
}


def test_numbers_and_labels() -> None:
    number = Number()
    number.inc()
    number.inc(2)
    number.dec()
    assert series_of(number) == [Series([], 2)]
    labelled = Labelled(Number)
    labelled.labels("x").inc()
    labelled.labels("x").inc()
    labelled.labels("y")
    assert series_of(labelled) == [Series(["x"], 2), Series(["y"], 0)]


def test_a_bucket_includes_its_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    histogram.observe(2.0, times=3)
    assert series_of(histogram) == [Series([], 18.0, [2, 4, 1])]


def test_series_do_not_change_afterwards() -> None:
    histogram = Histogram((1.0,))
    (before,) = series_of(histogram)
    histogram.observe(0.5)
    assert before.buckets == [0, 0]


def test_merge_sums_by_label_and_takes_shared_gauges_once() -> None:
    first = {
        "count": [Series(["x"], 1), Series(["y"], 2)],
        "same": [Series([], 7)],
        "times": [Series([], 1.0, [1, 0, 0])],
    }
    second = {
        "count": [Series(["y"], 3)],
        "same": [Series([], 5)],
        "times": [Series([], 9.0, [0, 0, 2])],
        "now": [Series([], 4)],
    }
    assert merged([first, second], DEFINITIONS) == {
        "count": [Series(["x"], 1), Series(["y"], 5)],
        "same": [Series([], 7)],
        "times": [Series([], 10.0, [1, 0, 2])],
        "now": [Series([], 4)],
    }
    assert first["count"][1].value == 2, "its sources are as they were"


def test_totals_of_a_process_that_ended() -> None:
    snapshot = {name: [Series([], 1)] for name in DEFINITIONS}
    assert set(totals(snapshot, DEFINITIONS)) == {"count", "times"}
