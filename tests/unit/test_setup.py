"""scripts/setup.sh: one line a stage, and what pip says only when it fails. Python and pip are stand-ins."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PACKAGE_ROOT

SCRIPT = PACKAGE_ROOT.parent / "scripts" / "setup.sh"
PYTHON = """#!/bin/sh
case "$*" in
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  *"-c import torch"*) exit 1 ;;
  *"-c import trtllm_openai"*) echo "$PYTHONDONTWRITEBYTECODE" > "$CALLS.compiled"; exit 1 ;;
  *"-m pip"*) echo "$*" >> "$CALLS"; echo "WARNING: noise about $*"
    case "$*" in *"$FAILS"*) echo "ERROR: $WHY"; exit 1 ;; esac ;;
esac
"""


def setup(directory: Path, fails: str, why: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    python = directory / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    variables = {"PYTHON": str(python), "VENV": str(directory / "venv"), "FAILS": fails, "WHY": why, **more}
    return subprocess.run(
        [str(SCRIPT)],
        env={**os.environ, **variables, "CALLS": str(directory / "calls")},
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
    assert [line.split()[0] for line in lines] == ["Making", *["Installing"] * 3, "Compiling"]
    again = setup(tmp_path, ".")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_what_the_server_imports_is_compiled_whatever_the_environment_says(tmp_path: Path) -> None:
    """And what cannot be imported, as with this stand-in, does not end the set-up."""
    assert setup(tmp_path, "nothing", PYTHONDONTWRITEBYTECODE="1").returncode == 0
    assert (tmp_path / "calls.compiled").read_text() == "\n"


def test_when_pip_fails_all_that_it_said_is_shown(tmp_path: Path) -> None:
    done = setup(tmp_path, ".[dev]")
    assert done.returncode != 0
    assert "noise about" in done.stderr
    assert ".[dev]" in done.stderr
    assert not list((tmp_path / "venv").glob(".ready-*"))


def test_the_locked_versions_are_installed_with_their_hashes(tmp_path: Path) -> None:
    assert setup(tmp_path, "nothing").returncode == 0
    *_, locked, project, no_deps = (tmp_path / "calls").read_text().splitlines()
    assert locked.endswith("--require-hashes --no-deps -r constraints/dev.lock.txt")
    assert project.endswith("-e .[dev]")
    assert no_deps.endswith("--require-hashes --no-deps -r constraints/no-deps.lock.txt")


@pytest.mark.parametrize(
    ("fails", "more"),
    [
        ("nothing", {"LOCKED": "no"}),
        ("nothing", {"CONSTRAINTS": "constraints/tensorrt_llm-1.2.1.txt"}),
        ("--require-hashes", {}),
    ],
)
def test_where_the_lock_is_not_for(fails: str, more: dict[str, str], tmp_path: Path) -> None:
    done = setup(tmp_path, fails, "No matching distribution found for numpy==2.4.6", **more)
    assert done.returncode == 0, done.stderr
    *_, project, no_deps = (tmp_path / "calls").read_text().splitlines()
    assert project.endswith("-e .[dev]")
    assert no_deps.endswith("--no-deps -r constraints/no-deps.in")
    assert "noise" not in done.stderr
    assert ("cannot be installed here" in done.stderr) is (not more)


def test_a_package_that_is_not_the_locked_one_ends_the_set_up(tmp_path: Path) -> None:
    why = "THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."
    done = setup(tmp_path, "--require-hashes", why)
    assert done.returncode == 1
    assert why in done.stderr
    assert "a package is not the one that was locked" in done.stderr
    assert "-e .[dev]" not in (tmp_path / "calls").read_text()
