"""`inspect DIR`: what a TensorRT-LLM engine directory is, and the memory it will take."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from trtllm_openai.engines.tensorrt_llm.engine_dir import EngineDir, read_engine_dir

GIB = 2**30


def inspect(directory: Path, *, as_json: bool) -> str:
    """The report, as a table or as JSON, of an engine directory or one that holds `engine/`.

    Raises `CheckpointError`.
    """
    inner = directory / "engine"
    engine = read_engine_dir(inner if inner.is_dir() else directory)
    if as_json:
        return json.dumps({**_facts(engine), **_memory(engine)}, indent=2)
    rows = {**_facts(engine), **{key: _shown(value) for key, value in _memory(engine).items()}}
    width = max(map(len, rows))
    return "\n".join(f"{key.replace('_', ' '):{width}}  {_word(value)}" for key, value in rows.items())


def _facts(engine: EngineDir) -> dict[str, Any]:
    facts = dataclasses.asdict(engine)
    del facts["weight_bytes"]
    return {**facts, "path": str(engine.path)}


def _memory(engine: EngineDir) -> dict[str, int]:
    """Bytes. Weights are spread evenly over the ranks; so are the keys and values."""
    sequence = engine.kv_bytes_per_token * engine.max_seq_len
    return {
        "weights_bytes": engine.weight_bytes,
        "weights_bytes_per_gpu": engine.weight_bytes // engine.world_size,
        "kv_cache_bytes_per_token": engine.kv_bytes_per_token,
        "kv_cache_bytes_per_full_sequence": sequence,
        "kv_cache_bytes_for_a_full_batch": sequence * engine.max_batch_size,
    }


def _shown(size: int) -> str:
    return f"{size} ({size / GIB:.2f} GiB)" if size >= GIB // 100 else str(size)


def _word(value: object) -> str:
    if value is None:
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
