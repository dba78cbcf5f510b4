"""`benchmarks/replicas.py` on the synthetic engine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT


@pytest.mark.slow
def test_servers_of_one_and_two_replicas_are_driven(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    command = [sys.executable, "benchmarks/replicas.py", "--model", "demo", "--concurrency", "2"]
    command += ["--input-tokens", "16", "--output-tokens", "10", "--json", str(file)]
    command += ["--", "--engine", "synthetic", "--synthetic.itl", "0.005", "--synthetic.ttft", "0.01"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    runs = json.loads(file.read_text())["runs"]
    assert [
        (one["replicas"], one["gpus"], one["concurrency"], one["said"]["output_tokens"]) for one in runs
    ] == [
        (1, ["-"], 2, 60),
        (2, ["-", "-"], 4, 120),
    ]
    assert "| 2 | -; - | 4 |" in done.stdout
