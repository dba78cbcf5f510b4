"""`inspect DIR`: the properties of a TensorRT-LLM engine directory and the GPU memory it needs."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from trtllm_openai.checkpoints import find_engine
from trtllm_openai.commands import Subparsers
from trtllm_openai.engines.tensorrt_llm.engine_dir import EngineDir, read_engine_dir
from trtllm_openai.engines.tensorrt_llm.speculative import describe
from trtllm_openai.serve.sampling_defaults import described, of_model

GIB = 2**30


def add_parser(subparsers: Subparsers) -> None:
    """Add `inspect`."""
    parser = subparsers.add_parser("inspect", help="show the properties of a TensorRT-LLM engine directory")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report. Raises `CheckpointError`."""
    print(inspect(arguments.directory, as_json=arguments.json))
    return 0


def inspect(directory: Path, *, as_json: bool) -> str:
    """Report on an engine directory, or on a directory with an `engine/` in it, as a table or as JSON.

    Raises `CheckpointError`.
    """
    inner = directory / "engine"
    engine = read_engine_dir(inner if inner.is_dir() else directory)
    defaults = of_model(find_engine(str(engine.path)))
    if as_json:
        found = {**_properties(engine), "default_sampling": defaults, **_memory(engine)}
        return json.dumps(found, indent=2)
    rows = {
        **_properties(engine),
        "default_sampling": described(defaults),
        **{key: _format_size(size) for key, size in _memory(engine).items()},
    }
    width = max(map(len, rows))
    return "\n".join(f"{key.replace('_', ' '):{width}}  {_format(value)}" for key, value in rows.items())


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


def _format_size(size: int) -> str:
    return f"{size} ({size / GIB:.2f} GiB)" if size >= GIB // 100 else str(size)


def _format(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
