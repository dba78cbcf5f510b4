"""The size of the KV cache: free memory, a container's limit, and failures that mean that there was none."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trtllm_openai.engines.torch import memory
from trtllm_openai.engines.torch.memory import CPU_SHARE, free_bytes, out_of_memory

GIB = 1 << 30
Files = Callable[..., None]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Puts files where the system has its own."""
    monkeypatch.setattr(memory, "Path", lambda path: tmp_path / path.lstrip("/"))

    def write(**contents: str) -> None:
        for name, content in contents.items():
            path = tmp_path / {"meminfo": "proc/meminfo"}.get(name, f"sys/fs/cgroup/memory.{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return write


def meminfo(available: int) -> str:
    return f"MemTotal: 999999999 kB\nMemFree: 1 kB\nMemAvailable:   {available // 1024} kB\nBuffers: 5 kB\n"


def free() -> int:
    return free_bytes(torch.device("cpu"), 0.9)  # the fraction is that of GPUs


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [
        ("max\n", 3 * GIB, 8 * GIB),
        (f"{6 * GIB}\n", 2 * GIB, 4 * GIB),
        (f"{60 * GIB}\n", 2 * GIB, 8 * GIB),
        (f"{2 * GIB}\n", 3 * GIB, 0),
        ("rubbish", 3 * GIB, 8 * GIB),
    ],
)
def test_the_smaller_of_what_the_host_and_the_container_have(
    files: Files, limit: str, used: int, expected: int
) -> None:
    files(meminfo=meminfo(8 * GIB), max=limit, current=f"{used}\n")
    assert free() == expected * CPU_SHARE


def test_without_a_container(files: Files) -> None:
    files(meminfo=meminfo(8 * GIB))
    assert free() == 8 * GIB * CPU_SHARE


def test_without_meminfo_half_of_the_memory_counts_as_available(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 1 << 20, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert free() == 2 * GIB * CPU_SHARE


def test_the_fraction_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * GIB, 80 * GIB))
    assert free_bytes(torch.device("cuda"), 0.9) == 9 * GIB


def test_an_allocation_that_fails_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_only_a_lack_of_memory_counts(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected
