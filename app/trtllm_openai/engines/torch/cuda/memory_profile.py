"""Profiles the peak memory of the largest step, to size the KV cache."""

from __future__ import annotations

from dataclasses import replace

import torch

from trtllm_openai.engines.torch.cuda.executor import CudaExecutor
from trtllm_openai.engines.torch.cuda.graphs import MOST_PADDED
from trtllm_openai.engines.torch.kv_cache import KVCache
from trtllm_openai.engines.torch.model_config import ModelConfig
from trtllm_openai.engines.torch.plan import Chunk, Limits, Plan
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.generation import GenerationRequest, SamplingParams


def free_after_peak(
    executor: CudaExecutor,
    config: ModelConfig,
    limits: Limits,
    max_length: int,
    kv_dtype: torch.dtype,
    device: torch.device,
) -> int:
    """Run the largest step and return the bytes left free on the device at its peak."""
    small = KVCache(config, 1, limits.block_size, kv_dtype, device)
    small.layers = small.layers[:1] * config.layers
    executor.use(small)
    peak = _peak(executor, _largest(limits, max_length), device)
    # Graphs keep the memory of the largest of them.
    padded = replace(limits, max_num_tokens=min(MOST_PADDED, limits.max_num_tokens))
    peak += _peak(executor, _largest(padded, max_length), device)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return max(0, int(free - peak))


def _peak(executor: CudaExecutor, plan: Plan, device: torch.device) -> int:
    """Run a step and return the bytes that it allocates at its peak."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    executor.launch(plan).collect()
    for chunk in plan.prefill:
        chunk.sequence.blocks = []  # releases their slot numbers
    return torch.cuda.max_memory_allocated(device) - before


def _largest(limits: Limits, max_length: int) -> Plan:
    """Build the largest plan: as many prompts as may run, which fill a step and all sample a token.

    They use only the null block.
    """
    chunks: list[Chunk] = []
    left, most = limits.max_num_tokens, limits.max_batch_size
    while left and len(chunks) < most:
        length = min(left, max_length, -(-limits.max_num_tokens // most))
        sampling = SamplingParams(max_tokens=1)
        sequence = Sequence(GenerationRequest(str(len(chunks)), [1] * length, sampling))
        sequence.blocks = [0] * (-(-length // limits.block_size))
        chunks.append(Chunk(sequence, 0, length))
        left -= length
    return Plan(prefill=chunks)
