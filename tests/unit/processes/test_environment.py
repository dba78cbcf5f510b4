"""A child's environment."""

import subprocess
import sys
from pathlib import Path

import pytest

import trtllm_openai
from trtllm_openai.processes.environment import child_environment, module


def test_a_child_finds_this_package_and_keeps_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("KEPT", "yes")
    code = (
        "import os, sys, trtllm_openai; "
        "print(trtllm_openai.__file__, os.environ['KEPT'], os.environ['ADDED'], '/elsewhere' in sys.path)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=child_environment(ADDED="too"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [trtllm_openai.__file__, "yes", "too", "True"]


def test_a_child_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    done = subprocess.run(
        module("json.tool", "--help"), env=child_environment(), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
