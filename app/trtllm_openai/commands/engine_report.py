"""What `inspect` says of a TensorRT-LLM engine directory: its properties and the GPU memory it needs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from trtllm_openai.checkpoints import find_engine
from trtllm_openai.engines.tensorrt_llm.engine_dir import EngineDir, read_engine_dir
from trtllm_openai.engines.tensorrt_llm.speculative import describe
from trtllm_openai.serve.sampling_defaults import of_model


def is_engine(directory: Path) -> bool:
    """Whether it is an engine directory, or holds one as engine/."""
    from trtllm_openai.checkpoints.metadata import read_optional_json

    return (directory / "engine").is_dir() or "pretrained_config" in read_optional_json(
        directory / "config.json"
    )


def engine_facts(directory: Path) -> dict[str, Any]:
    """The properties of the engine in `directory`, or in its engine/. Raises `CheckpointError`."""
    inner = directory / "engine"
    engine = read_engine_dir(inner if inner.is_dir() else directory)
    defaults = of_model(find_engine(str(engine.path)))
    return {**_properties(engine), "default_sampling": defaults, **_memory(engine)}


def _properties(engine: EngineDir) -> dict[str, Any]:
    properties = dataclasses.asdict(engine)
    del properties["weight_bytes"]
    properties |= {"path": str(engine.path), "speculative_decoding": describe(engine)}
    return properties


def _memory(engine: EngineDir) -> dict[str, int]:
    """Sizes in bytes. Weights and KV cache are split evenly over the ranks."""
    sequence = engine.kv_bytes_per_token * engine.max_seq_len
    return {
        "weights_bytes": engine.weight_bytes,
        "weights_bytes_per_gpu": engine.weight_bytes // engine.world_size,
        "kv_cache_bytes_per_token": engine.kv_bytes_per_token,
        "kv_cache_bytes_per_full_sequence": sequence,
        "kv_cache_bytes_for_a_full_batch": sequence * engine.max_batch_size,
    }
