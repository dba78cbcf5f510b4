"""Compiles `bindings.cpp` with nanobind, once, and imports it.

The result lies in the git-ignored build directory, under a hash of source and versions.
Needs a C++17 compiler, Python's headers and nanobind.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

SOURCE = Path(__file__).with_name("bindings.cpp")
BUILD = Path(__file__).resolve().parents[3] / "build" / "tensorrt_llm_shim"
NAME = "tensorrt_llm_bindings"


def missing() -> str | None:
    """What keeps the shim from being compiled here, or None."""
    if _compiler() is None:
        return "no C++ compiler (c++, g++ or clang++)"
    try:
        version("nanobind")
    except PackageNotFoundError:
        return "nanobind is not installed"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's headers are not installed"
    return None


def load() -> ModuleType:
    """The compiled module, compiled first if needed. Raises `RuntimeError` with the compiler's output."""
    if NAME in sys.modules:
        return sys.modules[NAME]
    spec = importlib.util.spec_from_file_location(NAME, build())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[NAME] = module
    return module


def build() -> Path:
    """Path of the extension module. Processes that ask at the same time wait for one compilation."""
    if reason := missing():
        raise RuntimeError(f"the shim of TensorRT-LLM's bindings cannot be compiled: {reason}")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    runtime = f"nanobind-{version('nanobind')}-{sys.implementation.cache_tag}"
    key = hashlib.sha256(SOURCE.read_bytes() + runtime.encode()).hexdigest()[:16]
    made = BUILD / f"{key}{suffix}"
    if made.exists():
        return made
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _compile(BUILD / f"{runtime}.o", made)
    return made


def _compile(runtime: Path, made: Path) -> None:
    """Compile nanobind itself (kept in `runtime`) and the shim, then link them into `made`."""
    import nanobind

    headers = Path(nanobind.include_dir())
    robin_map = headers.parent / "ext" / "robin_map" / "include"
    include = [f"-I{path}" for path in (sysconfig.get_path("include"), headers, robin_map)]
    flags = ["-std=c++17", "-O0", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-w", *include]
    temporary = made.with_suffix(f".{os.getpid()}")
    if not runtime.exists():
        _run([*flags, "-c", f"{nanobind.source_dir()}/nb_combined.cpp", "-o", str(temporary)])
        temporary.replace(runtime)
    link = ["-shared", *(["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else [])]
    _run([*flags, *link, str(SOURCE), str(runtime), "-o", str(temporary)])
    temporary.replace(made)


def _run(arguments: list[str]) -> None:
    done = subprocess.run(
        [_compiler() or "c++", *arguments], capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the shim of TensorRT-LLM's bindings does not compile:\n{done.stderr[-4000:]}")


def _compiler() -> str | None:
    return next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)
