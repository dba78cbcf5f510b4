"""scripts/setup.sh: one line a stage, and what pip says only when it fails. Python and pip are stand-ins."""

import os
import subprocess
from pathlib import Path

from tests.conftest import PACKAGE_ROOT

SCRIPT = PACKAGE_ROOT.parent / "scripts" / "setup.sh"
PYTHON = """#!/bin/sh
case "$*" in
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  *"-c import torch"*) exit 1 ;;
  *"-m pip"*) echo "WARNING: noise about $*"; case "$*" in *"$FAILS"*) exit 1 ;; esac ;;
esac
"""


def setup(directory: Path, fails: str) -> subprocess.CompletedProcess[str]:
    python = directory / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    variables = {"PYTHON": str(python), "VENV": str(directory / "venv"), "FAILS": fails}
    return subprocess.run(
        [str(SCRIPT)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_line_for_each_stage_and_nothing_the_second_time(tmp_path: Path) -> None:
    done = setup(tmp_path, "nothing")
    assert done.returncode == 0, done.stderr
    assert "noise" not in done.stdout + done.stderr
    lines = [line.strip("\x1b[01m") for line in done.stderr.splitlines()]
    assert [line.split()[0] for line in lines] == ["Making", "Installing", "Installing", "Installing"]
    again = setup(tmp_path, ".")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_when_pip_fails_all_that_it_said_is_shown(tmp_path: Path) -> None:
    done = setup(tmp_path, ".[dev]")
    assert done.returncode != 0
    assert "noise about" in done.stderr
    assert ".[dev]" in done.stderr
    assert not list((tmp_path / "venv").glob(".ready-*"))
