"""Drives a server with `trtllm-openai bench`, for the benchmarks that start servers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.compare_servers import ROOT

EXTRA = '{"ignore_eos": true, "temperature": 0}'
Load = dict[str, int]
"""concurrency, requests, and input and output tokens of each."""


def run(command: list[str], cwd: Path, env: dict[str, str]) -> str:
    """Run a client and return its stdout and stderr, regardless of its exit status."""
    done = subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.stdout.decode(errors="replace")


def read_bench(row: dict[str, Any]) -> dict[str, Any]:
    """Parse the result of `bench` from a load in its JSON. Times in milliseconds; None if not measured."""
    result = {"tokens_per_s": row["output_tokens_per_s"], "errors": row["errors"], "said": row}
    for name, percentile in (("tpot", "p50"), ("ttft", "p50"), ("ttft", "p99"), ("itl", "p99")):
        result[f"{name}_{percentile}"] = row[name] and 1000 * row[name][percentile]
    return result


def bench(url: str, load: Load, env: dict[str, str], scratch: Path) -> tuple[dict[str, Any], str]:
    """Drive the server at `url`, whose model is `m`. `scratch`: a directory for a file.

    Returns `read_bench`'s result, empty if there is none, and what the client printed.
    """
    file = scratch / "bench.json"
    file.unlink(missing_ok=True)
    flags = ["--url", url, "--model", "m", "--warmup", "2", "--extra", EXTRA, "--json", str(file)]
    flags += ["--concurrency", str(load["concurrency"]), "--requests", str(load["requests"])]
    flags += ["--input-tokens", str(load["input"]), "--output-tokens", str(load["output"])]
    text = run([sys.executable, "-m", "trtllm_openai", "bench", *flags], ROOT, env)
    return (read_bench(json.loads(file.read_text())["loads"][0]) if file.exists() else {}), text


def table(heads: str, rows: list[list[str]]) -> str:
    """Format a Markdown table; `heads` are separated by |."""
    lines = [" | ".join(row) for row in rows]
    return "\n".join(f"| {line} |" for line in (heads, " | ".join(["---"] * (heads.count("|") + 1)), *lines))


def number_of(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
