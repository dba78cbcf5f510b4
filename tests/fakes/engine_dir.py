"""Engine directories as trtllm-build 1.2.1 writes them, with empty plans."""

import json
import shutil
from pathlib import Path
from typing import Any


def engine_config(world: int = 1, **build: Any) -> dict[str, Any]:
    return {
        "version": "1.2.1",
        "pretrained_config": {
            "architecture": "LlamaForCausalLM",
            "dtype": "bfloat16",
            "vocab_size": 49152,
            "hidden_size": 576,
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
