"""Engine directories as trtllm-build 1.2.1 writes them, with empty plans."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np


def engine_config(world: int = 1, **build: Any) -> dict[str, Any]:
    return {
        "version": "1.2.1",
        "pretrained_config": {
            "architecture": "LlamaForCausalLM",
            "dtype": "bfloat16",
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 8192,
            "mapping": {"world_size": world, "tp_size": world, "pp_size": 1, "cp_size": 1},
            "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
        },
        "build_config": {
            "max_input_len": 1024,
            "max_seq_len": 1024,
            "max_batch_size": 8,
            "max_beam_width": 1,
            "max_num_tokens": 2048,
            "kv_cache_type": "PAGED",
            "gather_context_logits": False,
            "gather_generation_logits": False,
            "plugin_config": {"tokens_per_block": 32, "use_paged_context_fmha": True, "lora_plugin": None},
            **build,
        },
    }


LORA: dict[str, Any] = {
    "lora_config": {
        "lora_dir": [],
        "lora_ckpt_source": "hf",
        "max_lora_rank": 8,
        "lora_target_modules": ["attn_q", "attn_k", "attn_v"],
    },
    "plugin_config": {"tokens_per_block": 32, "use_paged_context_fmha": True, "lora_plugin": "auto"},
}
"""`build` of an engine with LoRA."""
LOOKAHEAD: dict[str, Any] = {"speculative_decoding_mode": 8, "max_draft_len": 83}
"""`build` of an engine for lookahead decoding with windows of (7, 7, 7)."""


def make_adapter(
    directory: Path, first: float = 1.0, *, rank: int = 4, rows: int = 2, dtype: Any = "bfloat16"
) -> Path:
    """An adapter of query projections as hf_lora_convert.py writes it; its first weight is `first`."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = np.zeros((1, rows, rank * (576 + 576)), np.float32)
    weights[0, 0, 0] = first
    if dtype == "bfloat16":  # numpy has no such type: torch_to_numpy writes two bytes without one
        stored: Any = (weights.view(np.uint32) >> 16).astype(np.uint16).view("V2")
    else:
        stored = weights.astype(dtype)
    np.save(directory / "model.lora_weights.npy", stored)
    config = np.array([[[1, layer, rank] for layer in range(rows)]], np.int32)
    np.save(directory / "model.lora_config.npy", config)
    return directory


def make_engine_dir(directory: Path, world: int = 1, tokenizer: Path | None = None, **build: Any) -> Path:
    """`directory`/engine and, copied from a checkpoint, `directory`/tokenizer; returns `directory`."""
    engine = directory / "engine"
    engine.mkdir(parents=True)
    (engine / "config.json").write_text(json.dumps(engine_config(world, **build)))
    for rank in range(world):
        (engine / f"rank{rank}.engine").write_bytes(b"plan" * 25)
    if tokenizer is not None:
        (directory / "tokenizer").mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tokenizer / name, directory / "tokenizer" / name)
    return directory
