"""Three times the load that the server can take: as many good answers as at one time, and in time.

On the synthetic engine, whose capacity does not depend on the machine; `make overload` takes longer, and with
OVERLOAD_ENGINE=torch on the demo model.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.conftest import ROOT, serve

Say = Callable[[str], None]
ENGINE = os.environ.get("OVERLOAD_ENGINE", "synthetic")
SECONDS = float(os.environ.get("OVERLOAD_SECONDS", "4"))
BATCH, TOKENS = 16, 40
PLACES = "24"
"""Sequences that may wait: at a capacity of 36 requests a second less than a second's worth."""


def bench(url: str, report: Path, *load: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "trtllm_openai", "bench", "--url", url, "--output-tokens", str(TOKENS)]
    command += ["--input-tokens", "16", "--json", str(report), *load]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=280)
    loads: list[dict[str, Any]] = json.loads(report.read_text())["loads"]
    return loads


def test_three_times_the_capacity(outcome: Say, tmp_path: Path) -> None:
    engine = ["--engine", "synthetic", "--synthetic.max-batch-size", str(BATCH)]
    if ENGINE == "torch":
        engine = ["--torch.max-batch-size", str(BATCH), "--torch.max-seq-len", "512"]
    limits = ["--limits.max-waiting-requests", PLACES, "--log-level", "warning"]
    with serve(*engine, *limits) as server:
        report = tmp_path / "report.json"
        (full,) = bench(server.url, report, "--concurrency", str(BATCH), "--requests", str(6 * BATCH))
        capacity = full["requests_per_s"]
        # What an accepted request waits for at most: the places before it, and half an answer that runs.
        # At least seconds: less would measure the machine's other load.
        bound = max(2.0, 2 * (int(PLACES) + BATCH) / capacity)
        slo = ["--slo", f"ttft={bound:.3f}"]
        once, thrice = (
            bench(
                server.url, report, "--rate", f"{rate:.2f}", "--requests", str(round(SECONDS * rate)), *slo
            )[0]
            for rate in (capacity, 3 * capacity)
        )
        assert set(thrice["errors"]) == {"HTTP 429"}
        assert thrice["ttft"]["p99"] <= bound
        assert thrice["goodput_per_s"] >= 0.95 * once["goodput_per_s"]
        server.wait(lambda: server.metric("requests_running") + server.metric("requests_not_begun") == 0, 20)
        assert server.metric("requests_orphaned") == 0
        outcome(
            f"goodput {thrice['goodput_per_s']:.1f}/s, at one time {once['goodput_per_s']:.1f}/s; p99 TTFT "
            f"{thrice['ttft']['p99']:.2f} s of {bound:.2f}; {thrice['errors']['HTTP 429']} got 429"
        )
