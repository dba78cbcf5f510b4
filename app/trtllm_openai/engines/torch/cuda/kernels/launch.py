"""Programmatic dependent launch (PDL): a kernel starts while the previous one is still finishing.

Needs compute capability 9.0. Before `wait`, which blocks until the previous kernel completes, programs may
read what no kernel of a step writes: weights, and the step's input, which the host has copied. A kernel that
calls `trigger` first gives the next one more time for that; products do so at their end (`gemv`).
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
def trigger(PDL: tl.constexpr):
    """Allow the next kernel to launch."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def wait(PDL: tl.constexpr):
    """Wait for the previous kernel to complete."""
    if PDL:
        tl.extra.cuda.gdc_wait()
