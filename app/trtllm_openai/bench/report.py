"""Formats the result of a load test as a table."""

from __future__ import annotations

from typing import Any

from trtllm_openai.bench.stats import TIMES


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table with one row per load. Times are p50 / p90 / p99 in milliseconds."""
    goodput = any("goodput_per_s" in row for row in rows)
    heads = ["load", "requests", "req/s", "tok/s", *(f"{name.upper()} ms" for name in TIMES)]
    heads += ["goodput/s"] if goodput else []
    heads.append("errors")
    lines = [heads]
    for row in rows:
        cells = [
            row["load"],
            str(row["requests"]),
            f"{row['requests_per_s']:.2f}",
            f"{row['output_tokens_per_s']:.0f}",
            *(_times(row[name]) for name in TIMES),
        ]
        if goodput:
            cells.append(f"{row['goodput_per_s']:.2f} ({row['slo_met']:.0%})")
        cells.append(", ".join(f"{kind}: {count}" for kind, count in row["errors"].items()) or "none")
        lines.append(cells)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(texts)


def _times(found: dict[str, float] | None) -> str:
    if found is None:
        return "-"
    return " / ".join(
        f"{value * 1000:.3g}" if value < 1 else f"{value * 1000:.0f}" for value in found.values()
    )
