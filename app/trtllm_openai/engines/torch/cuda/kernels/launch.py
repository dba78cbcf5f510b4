"""Programmatic dependent launch (PDL): a kernel starts while the previous one is still finishing.

Needs compute capability 9.0. Programs may set up and read constant inputs before `wait`, which blocks until
the previous kernel completes; data written by other kernels must not be read before it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl


@cache
def dependent() -> dict[str, Any]:
    """Keyword arguments that enable PDL for a launch, if this machine's GPU supports it."""
    able = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
    return {"PDL": True, "launch_pdl": True} if able else {"PDL": False}


@triton.jit
def wait(PDL: tl.constexpr):
    """Allow the next kernel to launch, then wait for the previous one to complete."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
