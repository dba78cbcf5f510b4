"""Pytest plugin: kernels are compiled for an H100, on a machine without a GPU, and not run.

    make test-kernels

Needs the package triton, which PyTorch's builds for CPUs lack. `-O` leaves assertions out: no kernel has
computed anything. A kernel that does not compile fails its test; that includes what Triton's interpreter
accepts and its compiler does not, and too much shared memory.
"""

from __future__ import annotations

from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction

CAPABILITY = (9, 0)
SHARED_MEMORY = 227 * 1024
"""Bytes of a program on an H100."""


class Hopper:
    """The part of a driver that Triton asks while it compiles."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 10 * CAPABILITY[0] + CAPABILITY[1], 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


_run = JITFunction.run


def compile_only(self: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
    """In place of a launch."""
    kernel = _run(self, *args, grid=grid, warmup=True, **options)
    assert isinstance(kernel, CompiledKernel)
    if kernel.metadata.shared > SHARED_MEMORY:
        raise OutOfResources(kernel.metadata.shared, SHARED_MEMORY, "shared memory")


def pytest_configure() -> None:
    driver.set_active(Hopper())
    JITFunction.run = compile_only


def pytest_collection_finish() -> None:
    """Not earlier: tests make their tensors on the device that they find when they are imported."""
    torch.cuda.is_available = lambda: True
    torch.cuda.get_device_capability = lambda device=None: CAPABILITY
