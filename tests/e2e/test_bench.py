"""`bench` against the synthetic engine, whose pace is known."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

from tests.e2e.conftest import ROOT, RunningServer


def bench(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trtllm_openai", "bench", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_closed_loop_knows_the_engines_pace(synthetic: RunningServer, tmp_path: Path) -> None:
    result, plot = tmp_path / "r.json", tmp_path / "r.html"
    flags = ["--concurrency", "1", "4", "--requests", "8", "--output-tokens", "12", "--input-tokens", "30"]
    flags += ["--processes", "2", "--slo", "ttft=30,tpot=0.001", "--json", str(result), "--plot", str(plot)]
    done = bench("--url", synthetic.url, *flags)
    assert done.returncode == 0, done.stderr
    assert "| 4 " in done.stdout
    one, four = json.loads(result.read_text())["loads"]
    for row in (one, four):
        assert row["errors"] == {}
        assert row["requests"] == 8
        assert row["output_tokens"] == 8 * 12
        assert row["input_tokens"] == 8 * 30
        assert row["tpot"]["p50"] >= 0.9 * 0.02  # the engine cannot be faster than its pace
        assert row["ttft"]["p50"] >= 0.05
        assert row["goodput_per_s"] == 0
    assert four["output_tokens_per_s"] > one["output_tokens_per_s"]
    HTMLParser().feed(plot.read_text())
    assert plot.read_text().count("<svg") == 5


def test_open_loop_in_chat(synthetic: RunningServer, tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    flags = [
        "--endpoint",
        "chat",
        "--rate",
        "40",
        "--requests",
        "20",
        "--output-tokens",
        "4",
        "--warmup",
        "1",
    ]
    done = bench("--url", synthetic.url, *flags, "--json", str(result))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(result.read_text())["loads"]
    assert row["errors"] == {}
    assert row["output_tokens"] == 80


def test_refusals_are_counted_by_kind(synthetic: RunningServer) -> None:
    done = bench("--url", synthetic.url, "--model", "other", "--requests", "4", "--warmup", "0")
    assert done.returncode == 1
    assert "HTTP 404: 4" in done.stdout


def test_no_server_is_said_in_words() -> None:
    done = bench("--url", "http://127.0.0.1:9")
    assert done.returncode == 1, "nothing was misspelt"
    assert done.stderr == (
        "trtllm-openai: The server at 127.0.0.1:9 cannot be asked for its models: Connection refused. "
        "Is it running? --model skips this request.\n"
    )
