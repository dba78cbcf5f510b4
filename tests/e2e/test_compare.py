"""`benchmarks/compare.py` with this server on both sides: the control, on the synthetic engine."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.compare_servers import family, living
from tests.conftest import python_path
from tests.e2e.conftest import ROOT

CONTROL = ["--model", "demo", "--peer", "self", "--input-tokens", "16"]
ENGINE = ["--", "--engine", "synthetic", "--synthetic.itl", "0.005", "--synthetic.ttft", "0.01"]

FAKE = f"""
import os, sys
if sys.argv[1] == "serve":
    flags = ["--engine", "synthetic", "--synthetic.max-seq-len", "10", "--served-model-name", "m"]
    flags += ["--model", sys.argv[2], "--port", sys.argv[sys.argv.index("--port") + 1]]
    os.environ["PYTHONPATH"] = {python_path()!r}
    os.execv(sys.executable, [sys.executable, "-m", "trtllm_openai", "serve", *flags])
print("Output token throughput (tok/s):  500.00\\nMedian TPOT (ms):  4.00\\nMedian TTFT (ms):  20.00")
print("P99 TTFT (ms):  40.00\\nP99 ITL (ms):  6.00")
"""
"""In vLLM's place: this server, too small for the prompts, and a client that asks for nothing."""


def start(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "benchmarks/compare.py", *flags]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr


@pytest.mark.parametrize("order", ["ours-first", pytest.param("around", marks=pytest.mark.slow)])
def test_the_control_measures_both_servers(tmp_path: Path, order: str) -> None:
    file = tmp_path / "r.json"
    loads = ["--concurrency", "1,4", "--requests-per", "3,8", "--output-tokens", "10"]
    loads += ["--order", order]
    status, stdout, stderr = finish(start(*CONTROL, *loads, "--json", str(file), *ENGINE))
    assert status == 0, stderr
    result = json.loads(file.read_text())
    servers = [one["server"] for one in result["servers"]]
    assert servers == ["ours", "self", "ours"][: 3 if order == "around" else 2]
    runs = result["runs"]
    assert [(one["start"], one["concurrency"], one["errors"]) for one in runs] == [
        (start, level, {}) for start in range(1, len(servers) + 1) for level in (1, 4)
    ]
    assert [one["said"]["output_tokens"] for one in runs] == [30, 80] * len(servers)
    assert all(0 < one["ttft_p50"] <= one["ttft_p99"] for one in runs)
    assert stdout.count("| 2. self |") == 2
    ratios = ", ".join([r"[\d.]+"] * (len(servers) - 1))
    assert re.search(rf"\n\| bench \| 1 \| {ratios} \| {ratios} \| {ratios} \|\n", stdout)
    assert "| at once | ours / self: output tok/s |" in stdout


@pytest.mark.slow
def test_a_peer_of_another_path_that_fails_and_its_own_client(tmp_path: Path, demo_dir: Path) -> None:
    module = tmp_path / "vllm/entrypoints/cli/main.py"
    module.parent.mkdir(parents=True)
    module.write_text(FAKE)
    flags = ["--model", str(demo_dir), "--peer-path", str(tmp_path), "--peer-client", "--concurrency", "2"]
    flags += ["--requests-per", "4", "--input-tokens", "16", "--output-tokens", "10"]
    status, stdout, _ = finish(start(*flags, *ENGINE))
    assert status == 1
    assert "| bench | 2 | 1. vllm | 0 | - | - | - | - | HTTP 400: 4 |" in stdout
    assert "| vllm | 2 | 1. vllm | 500 | 4 | 20 | 40 | 6 | none |" in stdout
    assert "| vllm | 2 | 2. ours | 500 | 4 | 20 | 40 | 6 | none |" in stdout
    assert "| bench | 2 | errors | errors | errors |\n| vllm | 2 | 1.00 | 1.00 | 1.00 |" in stdout


def test_a_server_that_does_not_come_up_is_told_with_its_log() -> None:
    status, stdout, stderr = finish(start(*CONTROL, *ENGINE, "--synthetic.itl", "soon"))
    assert status == 1
    assert "self ended with status" in stderr
    assert "synthetic.itl" in stderr.split("the end of its log:")[1]
    assert "Traceback" not in stderr
    assert stdout == ""


def test_a_missing_peer_is_told_before_anything_starts(tmp_path: Path) -> None:
    status, _, stderr = finish(start("--model", str(tmp_path), "--peer-python", "/nowhere/python"))
    assert status == 1
    assert stderr == "--peer-python: /nowhere/python cannot be run: No such file or directory\n"


def test_no_server_stays_behind() -> None:
    process = start(*CONTROL, "--concurrency", "1", "--output-tokens", "8000", *ENGINE)
    assert process.stdout is not None
    assert "ready after" in process.stdout.readline()
    mine = family(process.pid)
    server = [pid for pid, _ in mine if b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert server
    process.send_signal(signal.SIGTERM)
    status, _, stderr = finish(process)
    assert (status, stderr) == (1, "interrupted\n")
    deadline = time.monotonic() + 30  # the client's processes end by themselves
    while left := mine & living().keys():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
