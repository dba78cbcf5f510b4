"""A bar chart of the hit rates and times to first token of `benchmarks/routing.py`, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import groupby

from benchmarks.routing_model import Result

COLOURS = ("#9aa5b1", "#c4b5a0", "#b8a1c9", "#7aa6c2", "#2f7d5b", "#5fae8b", "#93cbb2")
BAR, GAP, HEIGHT, LEFT, TOP = 9, 14, 150, 46, 40


def plot(results: Sequence[Result]) -> str:
    """The document. Results of one kind and number of runners follow each other."""
    policies = list(dict.fromkeys(one.policy for one in results))
    width = LEFT + 20 + len(results) * BAR + GAP * len({(one.runners, one.kind) for one in results})
    width = max(width, 150 * len(policies) + LEFT)
    height = 2 * (HEIGHT + TOP) + 70
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="10">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    colours = dict(zip(policies, COLOURS, strict=False))
    parts += _chart(results, colours, TOP, "hit rate, %", lambda one: one.hit_rate * 100)
    below = 2 * TOP + HEIGHT + 25
    parts += _chart(results, colours, below, "TTFT p99, ms", lambda one: one.ttft_p99 * 1000)
    for number, policy in enumerate(policies):
        x = LEFT + 150 * number
        parts.append(f'<rect x="{x}" y="{height - 16}" width="9" height="9" fill="{colours[policy]}"/>')
        parts.append(f'<text x="{x + 13}" y="{height - 8}">{escape(policy)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _chart(
    results: Sequence[Result], colours: dict[str, str], top: int, title: str, value: Callable[[Result], float]
) -> Iterator[str]:
    most = max(map(value, results))
    yield f'<text x="{LEFT}" y="{top - 12}" font-size="12">{escape(title)}</text>'
    for part in (0.0, 0.5, 1.0):
        y = top + HEIGHT * (1 - part)
        yield f'<line x1="{LEFT}" x2="100%" y1="{y}" y2="{y}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 4}" y="{y + 3}" text-anchor="end">{most * part:.0f}</text>'
    x = float(LEFT + GAP)
    for (runners, kind), group in groupby(results, lambda one: (one.runners, one.kind)):
        begin = x
        for one in group:
            tall = HEIGHT * value(one) / most
            yield (
                f'<rect x="{x:g}" y="{top + HEIGHT - tall:.1f}" width="{BAR - 1}" height="{tall:.1f}" '
                f'fill="{colours[one.policy]}"/>'
            )
            x += BAR
        middle = (begin + x) / 2
        yield f'<text x="{middle:g}" y="{top + HEIGHT + 13}" text-anchor="middle">{kind} × {runners}</text>'
        x += GAP
