"""The import contracts of pyproject.toml, [tool.importlinter]: layers, cycles, and permitted frameworks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import PACKAGE_ROOT

LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def lint_imports(source_root: Path) -> subprocess.CompletedProcess[str]:
    """Check the package under `source_root` against this checkout's contracts."""
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache"],
        cwd=PACKAGE_ROOT.parent,
        env={**os.environ, "PYTHONPATH": str(source_root)},
        capture_output=True,
        text=True,
    )


def test_import_contracts_are_kept() -> None:
    result = lint_imports(PACKAGE_ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    package = tmp_path / "trtllm_openai"
    shutil.copytree(PACKAGE_ROOT / "trtllm_openai", package, ignore=shutil.ignore_patterns("__pycache__"))
    with (package / "errors.py").open("a") as file:
        file.write("\nfrom trtllm_openai.generation import types\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert "trtllm_openai.errors -> trtllm_openai.generation" in result.stdout
    assert "No import cycles between modules or packages of one folder BROKEN" in result.stdout
