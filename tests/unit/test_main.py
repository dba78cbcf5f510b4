"""`python -m trtllm_openai`, whatever lies in the working directory."""

import subprocess
import sys
from pathlib import Path

import pytest

import trtllm_openai
from tests.conftest import PACKAGE_ROOT


def run(cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trtllm_openai", "--version"], cwd=cwd, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", ["json.py", "app.py", "email.py", "argparse.py", "uvicorn.py"])
def test_a_file_named_like_a_library_is_not_imported(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("raise SystemExit('the wrong one')")
    done = run(tmp_path)
    assert (done.stdout.strip(), done.stderr) == (trtllm_openai.__version__, "")


def test_the_package_is_found_in_the_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH")
    assert run(PACKAGE_ROOT).stdout.strip() == trtllm_openai.__version__
