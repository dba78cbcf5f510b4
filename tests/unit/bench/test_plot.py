"""The page with the charts of a load test."""

import re
from typing import Any
from xml.etree import ElementTree

from trtllm_openai.bench.plot import CHARTS, page


def row(load: int, ttft: dict[str, float] | None) -> dict[str, Any]:
    times = {key: {"p50": 0.01, "p90": 0.02, "p99": 0.03} for key in CHARTS.values()}
    return {"concurrency": load, "rate": None, "output_tokens_per_s": 10.0 * load, **times, "ttft": ttft}


def charts(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text)]


def test_each_chart_has_a_point_for_each_load() -> None:
    times = {"p50": 0.1, "p90": 0.2, "p99": 0.4}
    found = charts(page("t", "n", [row(1, times), row(4, times), row(16, times)]))
    assert len(found) == 1 + len(CHARTS)
    tokens, *latencies = found
    assert len(tokens.findall("circle")) == 3
    assert [len(chart.findall("circle")) for chart in latencies] == [9] * len(CHARTS)
    xs = sorted({float(circle.attrib["cx"]) for circle in tokens.findall("circle")})
    assert abs((xs[1] - xs[0]) - (xs[2] - xs[1])) < 0.2  # loads that are quadrupled are equally far apart
    heights = [float(circle.attrib["cy"]) for circle in tokens.findall("circle")]
    assert heights == sorted(heights, reverse=True)  # more tokens per second are higher up


def test_a_load_without_answers_leaves_a_gap() -> None:
    _, first, *_ = charts(page("t", "n", [row(1, None), row(2, {"p50": 0.1, "p90": 0.1, "p99": 0.1})]))
    assert len(first.findall("circle")) == 3


def test_title_and_note_are_escaped() -> None:
    text = page("<a>", "b & c", [row(1, None)])
    assert "<title>&lt;a&gt;</title>" in text
    assert "b &amp; c" in text
