"""Chooses the sizes that settings leave open: of a step, of a sequence, and of the KV cache.

Settings that leave no room for an engine are refused with a `ConfigError` that names them.
"""

from __future__ import annotations

import torch

from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch.kv_cache import blocks_for
from trtllm_openai.engines.torch.model_config import ModelConfig
from trtllm_openai.engines.torch.plan import Limits
from trtllm_openai.errors import ConfigError

CPU_BATCH, GPU_BATCH = 32, 256
CPU_DRAFT_ROWS, GPU_DRAFT_ROWS = 64, 64
CPU_STEP, CPU_CHUNK, CPU_TILE = 512, 256, 64
GPU_STEP, GPU_CHUNK = 8192, 8192
"""Maximum tokens per step and per prefill chunk; they bound the inter-token latency of decodes. On a GPU,
few long steps beat many short ones (docs/performance.md). A tile is small enough for prefix cache hits
and large enough for fast kernels."""


def make_limits(settings: TorchSettings, device: torch.device) -> Limits:
    """Derive the scheduler's limits. Raises `ConfigError` if a step has no room for prefill tokens."""
    cpu = device.type == "cpu"
    batch = settings.max_batch_size or (CPU_BATCH if cpu else GPU_BATCH)
    tokens = settings.max_num_tokens or (CPU_STEP if cpu else GPU_STEP)
    speculates = settings.speculation != "off" and settings.tensor_parallel_size == 1
    # Drafts take at most half of a step's tokens from prompts.
    rows = max(batch, min(CPU_DRAFT_ROWS if cpu else GPU_DRAFT_ROWS, tokens // 2)) if speculates else batch
    chunk = min(tokens - rows, CPU_CHUNK if cpu else GPU_CHUNK)
    if chunk < 1:
        raise ConfigError(
            f"torch.max_num_tokens: {tokens} leaves no prefill tokens after one token for each of "
            f"torch.max_batch_size ({batch}) sequences"
        )
    # The rounding of an all-reduce depends on the position of a value in the batch.
    exact = cpu and settings.tensor_parallel_size == 1
    return Limits(
        batch,
        tokens,
        chunk,
        settings.block_size,
        tile=min(chunk, CPU_TILE) if exact else 1,
        exact=exact,
        draft_rows=rows if speculates else 0,
        prefix_caching=settings.enable_prefix_caching,
    )


def choose_max_seq_len(wanted: int | None, config: ModelConfig) -> int:
    """The most tokens of a sequence, by default the model's context. Raises `ConfigError` if it is less."""
    if wanted is None:
        return config.max_context
    if wanted > config.max_context:
        raise ConfigError(
            f"torch.max_seq_len: {wanted} exceeds the model's context of {config.max_context} tokens"
        )
    return wanted


def choose_kv_blocks(wanted: int | None, fitting: int, limits: Limits, max_seq_len: int) -> int:
    """The number of KV blocks for `wanted` tokens, by default for as many as a full batch can use.

    `fitting`: tokens that fit the memory, the most by default. At least enough for one sequence of
    `max_seq_len` tokens.
    """
    size = limits.block_size
    tokens = min(fitting, limits.max_batch_size * (max_seq_len + size)) if wanted is None else wanted
    return max(tokens // size, blocks_for(max_seq_len, size))
