"""How kernels are launched: one may begin while the one before it still ends, where the GPU can do that.

Programmatic dependent launch (compute capability 9): a kernel's programs are set up, and read what does not
depend on the kernel before, until `wait` holds them; nothing that another kernel writes may be read above it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl


@cache
def dependent() -> dict[str, Any]:
    """Keyword arguments for every launch on this machine's GPU."""
    able = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
    return {"PDL": True, "launch_pdl": True} if able else {"PDL": False}


@triton.jit
def wait(PDL: tl.constexpr):
    """Let the next kernel come, and wait for the one before."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
