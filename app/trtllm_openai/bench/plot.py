"""Charts of latency and throughput over load: one self-contained HTML page with inline SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM = 520, 300, 64, 40
COLOURS = {"p50": "#2b6cb0", "p90": "#c05621", "p99": "#9b2c2c", "tok/s": "#276749"}
CHARTS = {
    "Time to first token, ms": "ttft",
    "Time per output token, ms": "tpot",
    "Inter-token latency, ms": "itl",
    "End to end, ms": "e2e",
}
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:14px system-ui,sans-serif;margin:2em;max-width:1120px}}svg{{margin:0 1em 1em 0}}
text{{font:11px system-ui,sans-serif;fill:#333}}</style>
<h1>{title}</h1><p>{note}</p>
{charts}
</html>
"""


def page(title: str, note: str, rows: list[dict[str, Any]]) -> str:
    """Render the page for the `rows` of `bench.stats.summarise`."""
    loads = [float(row["concurrency"] or row["rate"]) for row in rows]
    what = "concurrent requests" if rows[0]["concurrency"] is not None else "requests per second"
    charts = [
        _chart(
            "Output tokens per second", what, loads, {"tok/s": [row["output_tokens_per_s"] for row in rows]}
        )
    ]
    for name, key in CHARTS.items():
        lines = {
            percent: [row[key][percent] * 1000 if row[key] else None for row in rows]
            for percent in ("p50", "p90", "p99")
        }
        charts.append(_chart(name, what, loads, lines))
    return PAGE.format(title=html.escape(title), note=html.escape(note), charts="\n".join(charts))


def _chart(name: str, what: str, loads: list[float], lines: dict[str, list[float | None]]) -> str:
    top = _ceiling(
        max((value for line in lines.values() for value in line if value is not None), default=1.0)
    )
    across = _scale(loads)

    def down(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - 30)

    parts = [f'<text x="{LEFT}" y="16" font-weight="bold">{html.escape(name)}</text>']
    for step in range(5):
        value = top * step / 4
        y = down(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 16}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts += [
        f'<text x="{across(load):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{load:g}</text>'
        for load in loads
    ]
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{what}</text>')
    for slot, (label, values) in enumerate(lines.items()):
        colour = COLOURS[label]
        points = [(across(x), down(y)) for x, y in zip(loads, values, strict=True) if y is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        x = WIDTH - 16 - 44 * slot
        parts.append(f'<text x="{x}" y="16" text-anchor="end" style="fill:{colour}">{label}</text>')
    return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">{"".join(parts)}</svg>'


def _scale(loads: list[float]) -> Callable[[float], float]:
    """Logarithmic x axis: loads usually double from one to the next."""
    low, high = math.log(min(loads)), math.log(max(loads))
    room = WIDTH - 40 - LEFT

    def across(load: float) -> float:
        share = (math.log(load) - low) / (high - low) if high > low else 0.5
        return LEFT + 12 + share * room

    return across


def _ceiling(value: float) -> float:
    """The next round number: 1, 2 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= value)
