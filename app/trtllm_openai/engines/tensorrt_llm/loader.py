"""From an engine directory and the settings to a ready executor."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trtllm_openai.checkpoints.metadata import read_json
from trtllm_openai.config import TensorRTLLMSettings
from trtllm_openai.engines.base import Progress
from trtllm_openai.engines.tensorrt_llm import guide_check, speculative
from trtllm_openai.engines.tensorrt_llm.engine_dir import (
    EngineDir,
    check_gpus,
    check_version,
    read_engine_dir,
)
from trtllm_openai.engines.tensorrt_llm.executor import ExecutorEngine, has_cache_salt
from trtllm_openai.engines.tensorrt_llm.guided import GUIDES, guided_decoding_config
from trtllm_openai.engines.tensorrt_llm.lora import Adapters, peft_cache_config
from trtllm_openai.engines.tensorrt_llm.lora_files import open_adapters
from trtllm_openai.errors import ConfigError
from trtllm_openai.generation import Capabilities, EngineInfo
from trtllm_openai.processes.mpi import RANK_VARIABLES, mpi_rank, prepare_to_spawn

log = logging.getLogger(__name__)


def load(
    engine_dir: Path,
    tokenizer_dir: Path,
    settings: TensorRTLLMSettings,
    eos_token_ids: tuple[int, ...],
    progress: Progress,
    vocabulary: Callable[[], list[bytes]],
    *,
    separate_prefixes: bool = False,
) -> ExecutorEngine:
    """Load the engine in `engine_dir` on this process's GPUs. Raises `CheckpointError` or `ConfigError`.

    `vocabulary` gives each token's bytes by id; it is called only with guided decoding. `separate_prefixes`:
    requests with different salts must share no KV block, whatever this version can do.
    """
    progress(0.0, "reading the engine's configuration")
    engine = read_engine_dir(engine_dir)
    speculative.check_speculation(engine, settings)
    adapters = open_adapters(engine, settings.lora_adapters)
    if engine.world_size > 1 and settings.launch == "orchestrator":
        prepare_to_spawn()  # importing the bindings starts MPI
    package, bindings = import_bindings()
    check_version(engine, package.__version__)
    if separate_prefixes and settings.enable_block_reuse and not has_cache_salt(bindings):
        log.warning("this TensorRT-LLM has no cache salts: prefix_sharing: key turns block reuse off")
        settings = settings.model_copy(update={"enable_block_reuse": False})
    mode = launch_mode(engine, settings)
    if mode != "leader":  # there, the ranks may be on other machines
        check_gpus(engine, visible_gpus())
    progress(0.1, f"loading {engine.architecture} on {engine.world_size} GPU(s)")
    eos_token_ids = eos_token_first(tokenizer_dir, eos_token_ids)
    config = executor_config(engine, settings, mode, package, bindings)
    if settings.guided_decoding:
        config.guided_decoding_config = guided_decoding_config(tokenizer_dir, eos_token_ids, bindings)
    if (cache := peft_cache_config(adapters, settings, bindings)) is not None:
        config.peft_cache_config = cache
    if (decoding := speculative.decoding_config(engine, settings, bindings)) is not None:
        config.decoding_config = decoding
    guides = None
    if settings.guided_decoding and (mode != "leader" or mpi_rank() == 0) and guide_check.available():
        guides = guide_check.GuideChecker(vocabulary(), engine.vocab_size, eos_token_ids)
    executor = bindings.Executor(str(engine_dir), bindings.ModelType.DECODER_ONLY, config)
    if mode == "leader" and not executor.can_enqueue_requests():
        executor.shutdown()  # blocks until the leader stops
        raise SystemExit(0)
    if guides is not None:
        guides.wait_until_ready()
    progress(1.0, "ready")
    info = engine_info(engine, settings, eos_token_ids, bindings)
    return ExecutorEngine(info, executor, bindings, guides, Adapters(adapters, bindings))


def import_bindings() -> tuple[Any, Any]:
    """`tensorrt_llm` and its executor bindings. Raises `ConfigError` where they cannot be imported."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # importing prints; standard output is the answer's
            package = importlib.import_module("tensorrt_llm")
            bindings = importlib.import_module("tensorrt_llm.bindings.executor")
    except ImportError as error:
        raise ConfigError(
            f"engine: tensorrt_llm cannot be imported here ({error}); use NVIDIA's TensorRT-LLM image, or "
            "--engine torch for a Hugging Face checkpoint"
        ) from None
    return package, bindings


def eos_token_first(tokenizer_dir: Path, eos_token_ids: tuple[int, ...]) -> tuple[int, ...]:
    """`eos_token_ids` with the tokenizer's own `eos_token` first, if it is among them.

    The executor knows one end id, and `min_tokens` suppresses only that: it has to be the token that ends a
    chat answer (Llama 3: <|eot_id|>, not the first of generation_config.json).
    """
    described, vocabulary = tokenizer_dir / "tokenizer_config.json", tokenizer_dir / "tokenizer.json"
    if not described.is_file() or not vocabulary.is_file():
        return eos_token_ids
    token = read_json(described).get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    added = read_json(vocabulary).get("added_tokens") or []
    first = [one["id"] for one in added if one.get("content") == text and one["id"] in eos_token_ids]
    return tuple(dict.fromkeys((*first, *eos_token_ids)))


def launch_mode(engine: EngineDir, settings: TensorRTLLMSettings) -> str:
    """`process` for one GPU, else what the settings say. Raises `ConfigError`."""
    if engine.world_size == 1:
        return "process"
    if settings.launch == "leader" and mpi_rank() is None:
        raise ConfigError(
            "tensorrt_llm.mpi_command: it started the runner without telling it its rank; it must be an "
            f"mpirun or srun that sets one of {', '.join(RANK_VARIABLES)}"
        )
    return settings.launch


def executor_config(
    engine: EngineDir, settings: TensorRTLLMSettings, mode: str, package: Any, bindings: Any
) -> Any:
    """The executor's configuration; each value comes from one key of the settings."""
    optional: dict[str, Any] = {}
    if settings.max_batch_size is not None:
        optional["max_batch_size"] = min(settings.max_batch_size, engine.max_batch_size)
    if settings.max_queue_size is not None:
        optional["max_queue_size"] = settings.max_queue_size
    if settings.recv_poll_period_ms:
        optional["recv_poll_period_ms"] = settings.recv_poll_period_ms
    if mode != "process":
        optional["parallel_config"] = parallel_config(engine, mode, package, bindings)
    policies = bindings.CapacitySchedulerPolicy
    return bindings.ExecutorConfig(
        max_beam_width=1,
        scheduler_config=bindings.SchedulerConfig(
            capacity_scheduler_policy={
                "guaranteed_no_evict": policies.GUARANTEED_NO_EVICT,
                "max_utilization": policies.MAX_UTILIZATION,
            }[settings.scheduler_policy]
        ),
        kv_cache_config=bindings.KvCacheConfig(
            enable_block_reuse=settings.enable_block_reuse and engine.paged_context_fmha,
            max_tokens=settings.kv_cache_tokens,
            free_gpu_memory_fraction=settings.kv_cache_memory_fraction,
        ),
        enable_chunked_context=settings.enable_chunked_context and engine.paged_context_fmha,
        # Said always: left out, an engine built for more runs at 8192.
        max_num_tokens=min(settings.max_num_tokens or engine.max_num_tokens, engine.max_num_tokens),
        # Normalized values are those after the top_k cut: 0.0 for every greedy token.
        normalize_log_probs=False,
        gpu_weights_percent=settings.gpu_weights_percent,
        **optional,
    )


def parallel_config(engine: EngineDir, mode: str, package: Any, bindings: Any) -> Any:
    """How several ranks are reached: spawned by this process, or already there under mpirun."""
    if mode == "leader":
        return bindings.ParallelConfig(
            communication_type=bindings.CommunicationType.MPI,
            communication_mode=bindings.CommunicationMode.LEADER,
        )
    worker = Path(package.__file__).parent / "bin" / "executorWorker"
    if not os.access(worker, os.X_OK):  # Open MPI would wait for it for ever
        raise ConfigError(f"tensorrt_llm.launch: orchestrator needs {worker}, which is not there")
    return bindings.ParallelConfig(
        communication_type=bindings.CommunicationType.MPI,
        communication_mode=bindings.CommunicationMode.ORCHESTRATOR,
        device_ids=list(range(engine.world_size)),  # of those this process sees
        orchestrator_config=bindings.OrchestratorConfig(
            is_orchestrator=True, worker_executable_path=str(worker), spawn_processes=True
        ),
    )


def visible_gpus() -> int:
    """GPUs this process may use."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([gpu for gpu in listed.split(",") if gpu.strip()])
    import torch

    return torch.cuda.device_count()


def engine_info(
    engine: EngineDir, settings: TensorRTLLMSettings, eos_token_ids: tuple[int, ...], bindings: Any
) -> EngineInfo:
    """The engine's limits and capabilities.

    An engine gives the chosen token's log-probability only, and none if built for speculative decoding.
    """
    mode = engine.speculative_decoding
    lookahead, plain = mode == speculative.LOOKAHEAD, mode == "none"
    longest = engine.max_seq_len
    if not (settings.enable_chunked_context and engine.paged_context_fmha):
        longest = min(longest, engine.max_num_tokens)
    batch = min(settings.max_batch_size or engine.max_batch_size, engine.max_batch_size)
    quantised = f" {engine.quantization}" if engine.quantization else ""
    return EngineInfo(
        engine="tensorrt_llm",
        architecture=engine.architecture,
        dtype=engine.dtype + quantised,
        device=f"{engine.world_size} GPU(s)",
        vocab_size=engine.vocab_size,
        eos_token_ids=eos_token_ids,
        max_seq_len=longest,
        max_batch_size=batch,
        lookahead=max(1, batch // 16),
        capabilities=Capabilities(
            max_logprobs=0 if plain else -1,
            seed=True,
            logit_bias=True,
            min_p=plain,
            penalties=not lookahead,
            min_tokens=True,
            sampling=not lookahead,
            priority=True,
            cache_salt=has_cache_salt(bindings),
            bad_words=not lookahead,
            guides=GUIDES if settings.guided_decoding else (),
        ),
        tensor_parallel=engine.tensor_parallel,
        pipeline_parallel=engine.pipeline_parallel,
        kv_block_size=engine.tokens_per_block,
        max_num_tokens=min(settings.max_num_tokens or engine.max_num_tokens, engine.max_num_tokens),
    )
