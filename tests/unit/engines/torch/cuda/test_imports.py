"""The modules of the torch engine for GPUs can be imported; machines without a GPU do not do it otherwise."""

import subprocess
import sys

IMPORTS = """
import importlib, pkgutil, sys
from types import ModuleType
from unittest.mock import MagicMock


class Triton(ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


# PyTorch's builds for CPUs come without Triton.
for name in ("triton", "triton.language"):
    sys.modules[name] = Triton(name)
sys.modules["triton"].language = sys.modules["triton.language"]
sys.modules["triton"].jit = lambda function: function
import trtllm_openai.engines.torch.cuda as package
names = [found.name for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_every_module_can_be_imported() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
