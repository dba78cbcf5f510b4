"""Loads an engine from a checkpoint directory and the settings.

In this order: the configuration, device and number formats, weights, model, memory for the KV cache,
executor, engine. Each tensor-parallel rank does all but the last for its own shard; rank 0 makes the engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.base import Progress
from trtllm_openai.engines.kv_events import KVEvents
from trtllm_openai.engines.torch.batch import BatchBuilder
from trtllm_openai.engines.torch.device import check_weights, choose_device, choose_dtype, peer_access
from trtllm_openai.engines.torch.engine import TorchEngine
from trtllm_openai.engines.torch.executor import EagerExecutor, Executor
from trtllm_openai.engines.torch.followers import Followers, join, meeting, start_followers
from trtllm_openai.engines.torch.guide_compiler import GuideCompiler
from trtllm_openai.engines.torch.guides import GUIDES, GuideLimits
from trtllm_openai.engines.torch.kv_cache import KVCache, bytes_per_token, choose_kv_dtype
from trtllm_openai.engines.torch.memory import free_bytes
from trtllm_openai.engines.torch.model import Model
from trtllm_openai.engines.torch.model_config import ModelConfig, read_config
from trtllm_openai.engines.torch.parallel import Ranks, shard
from trtllm_openai.engines.torch.plan import Limits
from trtllm_openai.engines.torch.sizes import choose_kv_blocks, choose_max_seq_len, make_limits
from trtllm_openai.engines.torch.speculation.drafter import make_drafter
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
class RankConfig:
    """Everything that one rank is built from: model, settings, and the choices where these leave some.

    `config`: of the whole model; `shard` has the sizes of this rank. `dtype`: of activations and of weights
    that are not quantized. `kv_dtype`: of the KV cache. `max_seq_len`: tokens of a prompt and its answer.
    """

    config: ModelConfig
    settings: TorchSettings
    ranks: Ranks
    device: torch.device
    dtype: torch.dtype
    kv_dtype: torch.dtype
    limits: Limits
    max_seq_len: int

    @property
    def shard(self) -> ModelConfig:
        return shard(self.config, self.ranks)


@dataclass(frozen=True, slots=True)
class LoadedRank:
    """The loaded parts of one rank. `blocks`: of the KV cache, without the null block."""

    rank: RankConfig
    executor: Executor
    cache: KVCache
    blocks: int


def load(
    model_dir: Path,
    settings: TorchSettings,
    progress: Progress,
    vocabulary: Callable[[], list[bytes]] | None = None,
    kv_events: KVEvents | None = None,
) -> TorchEngine:
    """Load the model in `model_dir`. Raises `CheckpointError` or `ConfigError`.

    `vocabulary`: returns the bytes of each token by id, empty for special tokens, and is called in a thread
    while the weights are read; without it, guided decoding is off. `kv_events`: is told which KV blocks are
    cached; the engine closes it.
    """
    progress(0.0, "reading the configuration")
    _check_speculation(settings)
    ranks = Ranks(0, settings.tensor_parallel_size)
    with ThreadPoolExecutor(1, "vocabulary") as beside:
        tokens = beside.submit(vocabulary) if vocabulary is not None else None
        if ranks.size == 1:
            own = load_rank(model_dir, settings, progress, ranks)
            return _engine(own, progress, tokens, None, kv_events)
        shard(read_config(model_dir), ranks)
        followers = start_followers(model_dir, settings)
        try:
            own = load_rank(model_dir, settings, progress, ranks, meeting(followers))
            followers.share(own.executor)
            return _engine(own, progress, tokens, followers, kv_events)
        except BaseException:
            followers.end(0)
            raise


def load_rank(
    model_dir: Path, settings: TorchSettings, progress: Progress, ranks: Ranks, meet: Path | None = None
) -> LoadedRank:
    """Load one rank's shard. `meet`: the rendezvous file, if there are several ranks."""
    rank = _rank_config(read_config(model_dir), settings, ranks)
    if rank.device.type == "cpu":
        threads = settings.threads or usable_cores()
        torch.set_num_threads(max(1, threads // ranks.size))
    if meet is not None:
        join(ranks, meet, rank.device)
    with torch.inference_mode():
        weights = _weights(rank, model_dir, progress)
        if rank.device.type == "cuda":
            return _on_gpu(rank, weights, progress)
        return _on_cpu(rank, weights)


def _rank_config(config: ModelConfig, settings: TorchSettings, ranks: Ranks) -> RankConfig:
    """Choose device, number formats and sizes. Raises `ConfigError` if they do not go together."""
    device = choose_device(settings.device, ranks)
    dtype = choose_dtype(settings.dtype, device)
    limits = make_limits(settings, device)
    max_seq_len = choose_max_seq_len(settings.max_seq_len, config)
    check_weights(config, settings.quantization, dtype, device, ranks)
    kv_dtype = choose_kv_dtype(settings.kv_cache_dtype, dtype, device)
    return RankConfig(config, settings, ranks, device, dtype, kv_dtype, limits, max_seq_len)


def _weights(rank: RankConfig, model_dir: Path, progress: Progress) -> WeightSource:
    dtype, device, weight_format = rank.dtype, rank.device, rank.config.weight_format
    if rank.settings.load_format == "dummy":
        return RandomWeights(dtype, device, weight_format)
    kind = ParallelWeights if device.type == "cuda" and rank.ranks.size == 1 else Weights
    return kind(
        model_dir,
        dtype,
        device,
        lambda share: progress(share * LOADING_SHARE, "reading weights"),
        weight_format,
    )


def _on_gpu(rank: RankConfig, weights: WeightSource, progress: Progress) -> LoadedRank:
    """Load a rank on a GPU. The KV cache gets what the largest step leaves. Requires Triton."""
    from trtllm_openai.engines.torch.cuda.executor import CudaExecutor
    from trtllm_openai.engines.torch.cuda.memory_profile import free_after_peak
    from trtllm_openai.engines.torch.cuda.model import CudaModel
    from trtllm_openai.engines.torch.cuda.peers import Peers

    ranks, device, limits, max_seq_len = rank.ranks, rank.device, rank.limits, rank.max_seq_len
    peers = None
    if ranks.size > 1:
        access = peer_access(ranks.size)
        peers = Peers(rank.config, ranks, limits.max_batch_size, rank.dtype, device, access)
    fp8 = rank.settings.quantization == "fp8"
    model = CudaModel(rank.config, weights, max_seq_len, device, fp8, peers)
    executor = CudaExecutor(rank.shard, model, limits, max_seq_len, device, peers)
    progress(LOADING_SHARE, "compiling kernels and measuring memory")
    room = free_after_peak(executor, rank.shard, limits, max_seq_len, rank.kv_dtype, device)
    cache, blocks = _cache(rank, int(room * rank.settings.kv_cache_memory_fraction))
    executor.use(cache)
    captured = 1 - COMPILED_SHARE
    executor.capture(lambda share: progress(COMPILED_SHARE + share * captured, "capturing CUDA graphs"))
    return LoadedRank(rank, executor, cache, blocks)


def _on_cpu(rank: RankConfig, weights: WeightSource) -> LoadedRank:
    """Load a rank on a CPU."""
    settings, ranks, limits = rank.settings, rank.ranks, rank.limits
    if rank.config.weight_format is not None and not ranks.rank:
        log.info("the weights are expanded to %s on a CPU: %s", rank.dtype, rank.config.weight_format)
    model = Model(
        rank.config, weights, rank.max_seq_len, rank.dtype, rank.device, ranks, settings.quantization
    )
    room = free_bytes(rank.device, settings.kv_cache_memory_fraction)
    cache, blocks = _cache(rank, room // ranks.size)  # ranks share the host memory
    tile = limits.tile if limits.exact else limits.chunk
    builder = BatchBuilder(settings.block_size, rank.max_seq_len, rank.dtype, rank.device, tile)
    return LoadedRank(rank, EagerExecutor(model, cache, builder), cache, blocks)


def _cache(rank: RankConfig, room: int) -> tuple[KVCache, int]:
    """Create a rank's KV cache in `room` bytes; returns its number of blocks too, the same on all ranks."""
    fitting = room // bytes_per_token(rank.shard, rank.kv_dtype)
    blocks = choose_kv_blocks(rank.settings.kv_cache_tokens, fitting, rank.limits, rank.max_seq_len)
    blocks = rank.ranks.least(blocks, rank.device)
    return KVCache(rank.shard, blocks, rank.settings.block_size, rank.kv_dtype, rank.device), blocks


def _engine(
    own: LoadedRank,
    progress: Progress,
    vocabulary: Future[list[bytes]] | None,
    followers: Followers | None,
    kv_events: KVEvents | None,
) -> TorchEngine:
    """Make the engine of rank 0 on its loaded parts."""
    settings, limits = own.rank.settings, own.rank.limits
    info = _info(own, guided=vocabulary is not None)
    guides = None
    if vocabulary is not None:
        bounds = GuideLimits(
            settings.guide_compile_timeout,
            settings.guide_processes,
            settings.guide_max_memory_mb,
            settings.guide_max_mask_ms,
        )
        guides = GuideCompiler(vocabulary.result(), info.vocab_size, info.eos_token_ids, bounds)
    progress(1.0, "ready")
    drafter = make_drafter(settings, overlaps=own.executor.overlaps) if limits.draft_rows else None
    step_budget = None
    if settings.max_step_ms is not None:
        step_budget = StepBudget(settings.max_step_ms / 1000, limits)
    return TorchEngine(
        info, own.executor, own.cache, limits, guides, followers, kv_events, drafter, step_budget
    )


def _info(own: LoadedRank, *, guided: bool) -> EngineInfo:
    config, device, limits = own.rank.config, own.rank.device, own.rank.limits
    logprobs = min(MAX_LOGPROBS, config.vocab_size)
    return EngineInfo(
        engine="torch",
        architecture=config.architecture,
        dtype=str(own.rank.dtype).removeprefix("torch."),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        vocab_size=config.vocab_size,
        eos_token_ids=config.eos_token_ids,
        max_seq_len=own.rank.max_seq_len,
        max_batch_size=limits.max_batch_size,
        capabilities=Capabilities(
            max_logprobs=logprobs,
            seed=True,
            logit_bias=True,
            min_p=True,
            penalties=True,
            min_tokens=True,
            max_prompt_logprobs=logprobs,
            priority=True,
            cache_salt=True,
            allowed_token_ids=True,
            bad_words=True,
            guides=GUIDES if guided else (),
            thinking_budget=guided,
            channels=guided,
            prediction=limits.draft_rows > 0,
        ),
        tensor_parallel=own.rank.ranks.size,
        max_num_tokens=limits.max_num_tokens,
        kv_blocks=own.blocks,
        kv_block_size=limits.block_size,
    )


def _check_speculation(settings: TorchSettings) -> None:
    """Raises `ConfigError` if drafts were asked for with several ranks."""
    if settings.speculation not in ("auto", "off") and settings.tensor_parallel_size > 1:
        raise ConfigError(
            f"torch.speculation: {settings.speculation} needs torch.tensor_parallel_size 1; use off, or "
            "auto, which is off with several ranks"
        )
