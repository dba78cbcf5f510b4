"""Loads an engine from a checkpoint directory and the settings."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.base import Progress
from trtllm_openai.engines.kv_events import KVEvents
from trtllm_openai.engines.torch.batch import BatchBuilder
from trtllm_openai.engines.torch.engine import TorchEngine, cache_blocks
from trtllm_openai.engines.torch.executor import EagerExecutor, Executor
from trtllm_openai.engines.torch.followers import Followers, join, meeting, start_followers
from trtllm_openai.engines.torch.guide_compiler import GuideCompiler
from trtllm_openai.engines.torch.guides import GUIDES, GuideLimits
from trtllm_openai.engines.torch.kv_cache import KVCache, bytes_per_token, choose_kv_dtype
from trtllm_openai.engines.torch.linear import check_quantization
from trtllm_openai.engines.torch.memory import free_bytes
from trtllm_openai.engines.torch.model import Model
from trtllm_openai.engines.torch.model_config import ModelConfig, read_config
from trtllm_openai.engines.torch.parallel import ALONE, Ranks, shard
from trtllm_openai.engines.torch.plan import Limits
from trtllm_openai.engines.torch.quantized.weight_format import WeightFormat, check_quantization_setting
from trtllm_openai.engines.torch.speculation.drafter import Drafter
from trtllm_openai.engines.torch.speculation.policy import StepCost
from trtllm_openai.engines.torch.step_budget import StepBudget
from trtllm_openai.engines.torch.weight_source import ParallelWeights, RandomWeights, WeightSource
from trtllm_openai.engines.torch.weights import Weights
from trtllm_openai.errors import ConfigError
from trtllm_openai.generation import Capabilities, EngineInfo
from trtllm_openai.processes.cores import usable_cores

log = logging.getLogger(__name__)

MAX_LOGPROBS = 20
LOADING_SHARE = 0.9
"""Fraction of the loading progress assigned to reading weights."""
COMPILED_SHARE = 0.95
"""Fraction at which kernels are compiled, and CUDA graphs begin."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The loaded parts of one rank."""

    config: ModelConfig
    executor: Executor
    cache: KVCache
    limits: Limits
    blocks: int
    max_seq_len: int
    dtype: torch.dtype
    device: torch.device


def load(
    model_dir: Path,
    settings: TorchSettings,
    progress: Progress,
    vocabulary: Callable[[], list[bytes]] | None = None,
    kv_events: KVEvents | None = None,
) -> TorchEngine:
    """Load the model in `model_dir`. Raises `CheckpointError` or `ConfigError`.

    `vocabulary`: returns the bytes of each token by id, empty for special tokens; without it, guided
    decoding is off. `kv_events`: is told which KV blocks are cached; the engine closes it.
    """
    progress(0.0, "reading the configuration")
    _check_speculation(settings)
    ranks = Ranks(0, settings.tensor_parallel_size)
    if ranks.size == 1:
        own = load_rank(model_dir, settings, progress, ranks)
        return _engine(own, settings, progress, vocabulary, None, kv_events)
    shard(read_config(model_dir), ranks)
    followers = start_followers(model_dir, settings)
    try:
        own = load_rank(model_dir, settings, progress, ranks, meeting(followers))
        followers.share(own.executor)
        return _engine(own, settings, progress, vocabulary, followers, kv_events)
    except BaseException:
        followers.end(0)
        raise


def load_rank(
    model_dir: Path, settings: TorchSettings, progress: Progress, ranks: Ranks, meet: Path | None = None
) -> Loaded:
    """Load one rank's shard. `meet`: the rendezvous file, if there are several ranks."""
    config = read_config(model_dir)
    device = choose_device(settings.device, ranks)
    dtype = choose_dtype(settings.dtype, device)
    limits = make_limits(settings, device)
    if device.type == "cpu":
        threads = settings.threads or usable_cores()
        torch.set_num_threads(max(1, threads // ranks.size))
    max_seq_len = _max_seq_len(config, settings)
    if meet is not None:
        join(ranks, meet, device)

    def reading(share: float) -> None:
        progress(share * LOADING_SHARE, "reading weights")

    def capturing(share: float) -> None:
        progress(COMPILED_SHARE + share * (1 - COMPILED_SHARE), "capturing CUDA graphs")

    check_quantization(settings.quantization, device)
    check_quantization_setting(settings.quantization, config.weight_format)
    on_gpu = device.type == "cuda"
    given = config.weight_format
    if settings.quantization == "fp8":
        _check_fp8("torch.quantization: fp8", config, dtype, device, ranks)
    elif on_gpu and given is not None and given.fp8:
        _check_fp8(f"This checkpoint of {given}", config, dtype, device, ranks)
    elif on_gpu and given is not None:
        _check_int4(given, dtype, device)
    kv_dtype = choose_kv_dtype(settings.kv_cache_dtype, dtype, device)
    with torch.inference_mode():
        weights: WeightSource
        if settings.load_format == "dummy":
            weights = RandomWeights(dtype, device, config.weight_format)
        else:
            kind = ParallelWeights if on_gpu and ranks.size == 1 else Weights
            weights = kind(model_dir, dtype, device, reading, config.weight_format)
        executor: Executor
        if on_gpu:
            executor, cache, blocks = _on_gpu(
                config,
                settings,
                limits,
                weights,
                max_seq_len,
                dtype,
                kv_dtype,
                device,
                ranks,
                progress,
                capturing,
            )
        else:
            if config.weight_format is not None and not ranks.rank:
                log.info("the weights are expanded to %s on a CPU: %s", dtype, config.weight_format)
            model = Model(config, weights, max_seq_len, dtype, device, ranks, settings.quantization)
            own = shard(config, ranks)
            room = free_bytes(device, settings.kv_cache_memory_fraction)
            room //= ranks.size  # ranks share the host memory
            cache, blocks = _cache(own, settings, limits, max_seq_len, kv_dtype, room, device, ranks)
            tile = limits.tile if limits.exact else limits.chunk
            builder = BatchBuilder(settings.block_size, max_seq_len, dtype, device, tile)
            executor = EagerExecutor(model, cache, builder)
    return Loaded(config, executor, cache, limits, blocks, max_seq_len, dtype, device)


def _on_gpu(
    config: ModelConfig,
    settings: TorchSettings,
    limits: Limits,
    weights: WeightSource,
    max_seq_len: int,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    device: torch.device,
    ranks: Ranks,
    progress: Progress,
    capturing: Callable[[float], None],
) -> tuple[Executor, KVCache, int]:
    """Create a rank's GPU executor, KV cache and number of KV blocks. Requires Triton."""
    from trtllm_openai.engines.torch.cuda.executor import CudaExecutor
    from trtllm_openai.engines.torch.cuda.memory_profile import free_after_peak
    from trtllm_openai.engines.torch.cuda.model import CudaModel
    from trtllm_openai.engines.torch.cuda.peers import Peers

    own = shard(config, ranks)
    peers = None
    if ranks.size > 1:
        peers = Peers(config, ranks, limits.max_batch_size, dtype, device, _peer_access(ranks.size))
    model = CudaModel(config, weights, max_seq_len, device, settings.quantization == "fp8", peers)
    executor = CudaExecutor(own, model, limits, max_seq_len, device, peers)
    progress(LOADING_SHARE, "compiling kernels and measuring memory")
    room = free_after_peak(executor, own, limits, max_seq_len, kv_dtype, device)
    room = int(room * settings.kv_cache_memory_fraction)
    cache, blocks = _cache(own, settings, limits, max_seq_len, kv_dtype, room, device, ranks)
    executor.use(cache)
    executor.capture(capturing)
    return executor, cache, blocks


def _engine(
    own: Loaded,
    settings: TorchSettings,
    progress: Progress,
    vocabulary: Callable[[], list[bytes]] | None,
    followers: Followers | None,
    kv_events: KVEvents | None,
) -> TorchEngine:
    config, device = own.config, own.device
    info = EngineInfo(
        engine="torch",
        architecture=config.architecture,
        dtype=str(own.dtype).removeprefix("torch."),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        vocab_size=config.vocab_size,
        eos_token_ids=config.eos_token_ids,
        max_seq_len=own.max_seq_len,
        max_batch_size=own.limits.max_batch_size,
        capabilities=Capabilities(
            max_logprobs=min(MAX_LOGPROBS, config.vocab_size),
            seed=True,
            logit_bias=True,
            min_p=True,
            penalties=True,
            min_tokens=True,
            max_prompt_logprobs=min(MAX_LOGPROBS, config.vocab_size),
            priority=True,
            cache_salt=True,
            allowed_token_ids=True,
            bad_words=True,
            guides=GUIDES if vocabulary is not None else (),
            thinking_budget=vocabulary is not None,
            channels=vocabulary is not None,
            prediction=own.limits.draft_rows > 0,
        ),
        tensor_parallel=settings.tensor_parallel_size,
        max_num_tokens=own.limits.max_num_tokens,
        kv_blocks=own.blocks,
        kv_block_size=settings.block_size,
    )
    guides = None
    if vocabulary is not None and info.capabilities.guides:
        bounds = GuideLimits(
            settings.guide_compile_timeout,
            settings.guide_processes,
            settings.guide_max_memory_mb,
            settings.guide_max_mask_ms,
        )
        guides = GuideCompiler(vocabulary(), config.vocab_size, config.eos_token_ids, bounds)
    progress(1.0, "ready")
    drafter = make_drafter(settings, overlaps=own.executor.overlaps) if own.limits.draft_rows else None
    step_budget = None
    if settings.max_step_ms is not None:
        step_budget = StepBudget(settings.max_step_ms / 1000, own.limits)
    return TorchEngine(
        info, own.executor, own.cache, own.limits, guides, followers, kv_events, drafter, step_budget
    )


def _check_speculation(settings: TorchSettings) -> None:
    """Raises `ConfigError` if drafts were asked for with several ranks."""
    if settings.speculation not in ("auto", "off") and settings.tensor_parallel_size > 1:
        raise ConfigError(
            f"torch.speculation: {settings.speculation} needs torch.tensor_parallel_size 1; use off, or "
            "auto, which is off with several ranks"
        )


def make_drafter(settings: TorchSettings, *, overlaps: bool) -> Drafter:
    """The drafter of an engine whose `speculation` is not off. `overlaps`: that of its executor, on a GPU."""
    assert settings.speculation != "off"
    return Drafter(
        settings.speculation,
        settings.speculation_max_draft,
        GPU_STEP_COST if overlaps else CPU_STEP_COST,
        settings.speculation_history_tokens if settings.enable_prefix_caching else 0,
        GPU_READ_COST if overlaps else None,
    )


CPU_STEP_COST = StepCost((1, 1.0), (2, 1.03), (4, 1.15), (8, 1.45), (16, 2.1), (32, 3.6), (64, 6.5))
GPU_STEP_COST = StepCost((1, 1.0), (2, 1.18), (16, 1.25), (64, 1.7), (128, 2.3), (256, 3.5))
"""Durations of decode steps (docs/performance.md), by which `torch.speculation: auto` decides."""
GPU_READ_COST = 0.1


def make_limits(settings: TorchSettings, device: torch.device) -> Limits:
    """Derive the scheduler's limits. Raises `ConfigError` if a step has no room for prefill tokens."""
    batch = settings.max_batch_size or (CPU_BATCH if device.type == "cpu" else GPU_BATCH)
    tokens = settings.max_num_tokens or (CPU_STEP if device.type == "cpu" else GPU_STEP)
    chunk = min(tokens - batch, CPU_CHUNK if device.type == "cpu" else GPU_CHUNK)
    if chunk < 1:
        raise ConfigError(
            f"torch.max_num_tokens: {tokens} leaves no prefill tokens after one token for each of "
            f"torch.max_batch_size ({batch}) sequences"
        )
    # The rounding of an all-reduce depends on the position of a value in the batch.
    exact = device.type == "cpu" and settings.tensor_parallel_size == 1
    draft_rows = 0
    if settings.speculation != "off" and settings.tensor_parallel_size == 1:
        draft_rows = max(
            batch, min(CPU_DRAFT_ROWS if device.type == "cpu" else GPU_DRAFT_ROWS, tokens - chunk)
        )
    return Limits(
        batch,
        tokens,
        chunk,
        settings.block_size,
        tile=min(chunk, CPU_TILE) if exact else 1,
        exact=exact,
        draft_rows=draft_rows,
        prefix_caching=settings.enable_prefix_caching,
    )


CPU_BATCH, GPU_BATCH = 32, 256
CPU_DRAFT_ROWS, GPU_DRAFT_ROWS = 64, 64
CPU_STEP, CPU_CHUNK, CPU_TILE = 512, 256, 64
GPU_STEP, GPU_CHUNK = 8192, 8192
"""Maximum tokens per step and per prefill chunk; they bound the inter-token latency of decodes. On a GPU,
few long steps beat many short ones (docs/performance.md). A tile is small enough for prefix cache hits
and large enough for fast kernels."""


def choose_device(wanted: str, ranks: Ranks = ALONE) -> torch.device:
    """Choose the device for the setting, one GPU per rank. Raises `ConfigError` if it is unavailable."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch.device: cuda was requested, but PyTorch finds no usable GPU")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if ranks.size > torch.cuda.device_count():
        raise ConfigError(
            f"torch.tensor_parallel_size: {ranks.size} ranks need as many GPUs, "
            f"but there are {torch.cuda.device_count()}"
        )
    if ranks.size > 1:
        torch.cuda.set_device(ranks.rank)
    return torch.device("cuda", torch.cuda.current_device())


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Return the configured dtype; by default bfloat16 if the device supports it natively, else float32."""
    if wanted == "float32":
        return torch.float32
    if wanted == "bfloat16":
        return torch.bfloat16
    native = (
        torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    )
    return torch.bfloat16 if native else torch.float32


def _max_seq_len(config: ModelConfig, settings: TorchSettings) -> int:
    if settings.max_seq_len is None:
        return config.max_context
    if settings.max_seq_len > config.max_context:
        raise ConfigError(
            f"torch.max_seq_len: {settings.max_seq_len} exceeds the model's context of "
            f"{config.max_context} tokens"
        )
    return settings.max_seq_len


def _cache(
    config: ModelConfig,
    settings: TorchSettings,
    limits: Limits,
    max_seq_len: int,
    kv_dtype: torch.dtype,
    room: int,
    device: torch.device,
    ranks: Ranks,
) -> tuple[KVCache, int]:
    """Create a rank's KV cache; returns its number of blocks too, the same on all ranks.

    It is as configured, else as many as fit `room` bytes, at most what a full batch can use.
    """
    tokens = settings.kv_cache_tokens
    if tokens is None:
        most = limits.max_batch_size * (max_seq_len + settings.block_size)
        tokens = min(room // bytes_per_token(config, kv_dtype), most)
    blocks = ranks.least(cache_blocks(tokens, max_seq_len, settings.block_size), device)
    return KVCache(config, blocks, settings.block_size, kv_dtype, device), blocks


def _peer_access(ranks: int) -> bool:
    """Whether the first `ranks` GPUs may all access each other's memory.

    `NCCL_P2P_DISABLE`, which is set where peer access is broken, holds for this engine's own kernels as well.
    """
    if os.environ.get("NCCL_P2P_DISABLE") == "1":
        return False
    pairs = ((one, other) for one in range(ranks) for other in range(ranks) if one != other)
    return all(torch.cuda.can_device_access_peer(one, other) for one, other in pairs)


def _check_int4(given: WeightFormat, dtype: torch.dtype, device: torch.device) -> None:
    """Raises `ConfigError` if the GPU does not support 4-bit weights."""
    if torch.cuda.get_device_capability(device) < INT4_CAPABILITY or dtype != torch.bfloat16:
        raise ConfigError(
            f"This checkpoint of {given} needs a GPU of compute capability 8.0 and torch.dtype bfloat16"
        )


def _check_fp8(
    subject: str, config: ModelConfig, dtype: torch.dtype, device: torch.device, ranks: Ranks
) -> None:
    """Raises `ConfigError` about `subject` if the device or the model's sizes do not support fp8."""
    if device.type == "cpu":
        raise ConfigError(f"{subject} needs a GPU; use int8 on a CPU")
    if torch.cuda.get_device_capability(device) < FP8_CAPABILITY or dtype != torch.bfloat16:
        raise ConfigError(f"{subject} needs a GPU of compute capability 9.0 and bfloat16")
    own = shard(config, ranks)
    sizes = own.hidden_size, own.intermediate_size, own.heads * own.head_dim, own.kv_heads * own.head_dim
    if any(size % FP8_GRAIN for size in sizes):
        raise ConfigError(
            f"{subject} needs a model whose sizes are multiples of {FP8_GRAIN}, also after "
            f"they are divided by torch.tensor_parallel_size ({ranks.size})"
        )


FP8_CAPABILITY, INT4_CAPABILITY = (9, 0), (8, 0)
FP8_GRAIN = 16
