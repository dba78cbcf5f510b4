"""Makes a runner's engine fail on demand: Python imports this by itself when its directory is on the path.

FAULT_FILE names a file; while it exists, the next step of the torch engine fails as its content says: `raise`
an error, `memory` runs out, `hang` forever. The file is removed, so that one fault is one fault. A request
with the cache_salt `raise` or `crash` makes every step that it is in fail.

CLOCK_FILE names a file with the seconds by which the wall clock is wrong.
"""

import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

TARGET = "trtllm_openai.engines.torch.engine"


class Patch(importlib.abc.MetaPathFinder):
    """Replaces the engine's forward pass once its module is imported."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def patch(module: ModuleType) -> None:
    launch = module.TorchEngine._launch

    def _launch(self, plan):  # type: ignore[no-untyped-def]
        for sequence in (*plan.decode, *(chunk.sequence for chunk in plan.prefill)):
            if sequence.request.cache_salt == "raise":
                raise ValueError("a request asked for a fault")
            if sequence.request.cache_salt == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
        fault = Path(os.environ["FAULT_FILE"])
        if fault.exists():
            kind = fault.read_text()
            fault.unlink()
            if kind == "memory":
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
            if kind == "hang":
                time.sleep(3600)
            raise ValueError("a fault was asked for")
        return launch(self, plan)

    module.TorchEngine._launch = _launch


if "FAULT_FILE" in os.environ:
    sys.meta_path.insert(0, Patch())


def jump(now: Callable[[], float], file: Path) -> Callable[[], float]:
    """The wall clock with the error that `file` says."""

    def jumped() -> float:
        return now() + (float(file.read_text() or 0) if file.exists() else 0.0)

    return jumped


if "CLOCK_FILE" in os.environ:
    time.time = jump(time.time, Path(os.environ["CLOCK_FILE"]))
