"""What a TensorRT-LLM engine directory says about itself: config.json and the rank*.engine files.

Needs no tensorrt_llm, so that `inspect` works anywhere. Everything that would make loading fail later, on
several GPUs and without words, is refused here in a sentence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtllm_openai.checkpoints.metadata import read_json
from trtllm_openai.errors import CheckpointError

_RANK = re.compile(r"rank(\d+)\.engine")
KV_BYTES = {"INT8": 1, "FP8": 1}
"""Bytes of one cached number by the KV cache's quantisation; NVFP4 packs two and is not counted here."""
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
SPECULATIVE_MODES = {
    1: "none",
    2: "draft_tokens_external",
    4: "medusa",
    8: "lookahead_decoding",
    16: "explicit_draft_tokens",
    32: "eagle",
}
"""`build_config.speculative_decoding_mode`, a flag of runtime/speculativeDecodingMode.h, by the names that
`trtllm-build --speculative_decoding_mode` takes."""


@dataclass(frozen=True, slots=True)
class EngineDir:
    """Facts of an engine directory. Sizes in tokens or sequences unless they say bytes."""

    path: Path
    version: str
    architecture: str
    dtype: str
    quantization: str | None
    kv_cache_quantization: str | None
    tensor_parallel: int
    pipeline_parallel: int
    context_parallel: int
    world_size: int
    vocab_size: int
    layers: int
    hidden_size: int
    mlp_size: int | None
    """Width of the MLP, or None where the configuration has none."""
    heads: int
    kv_heads: int
    head_size: int
    max_batch_size: int
    max_seq_len: int
    max_num_tokens: int
    max_beam_width: int
    tokens_per_block: int
    kv_cache_type: str
    paged_context_fmha: bool
    lora: bool
    lora_modules: tuple[str, ...]
    """The modules that adapters may change; empty without LoRA."""
    max_lora_rank: int
    speculative_decoding: str
    """A name of `SPECULATIVE_MODES`, or the number of a mode that is not among them."""
    max_draft_len: int
    gather_context_logits: bool
    gather_generation_logits: bool
    weight_bytes: int
    """Of all ranks together, on disk, which is what they take on the GPUs."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of one token's keys and values, over all ranks."""
        number = KV_BYTES.get(self.kv_cache_quantization or "") or DTYPE_BYTES.get(self.dtype, 2)
        # With fewer heads than ranks every rank keeps a copy.
        kv_heads = max(self.kv_heads, self.tensor_parallel)
        return 2 * self.layers * kv_heads * self.head_size * number


def read_engine_dir(path: Path) -> EngineDir:
    """Read and check `path`. Raises `CheckpointError` with what is wrong with it."""
    if not path.is_dir():
        raise CheckpointError(f"There is no engine directory {path}.")
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"The engine directory {path} has no config.json: is it the directory that trtllm-build wrote?"
        )
    config = read_json(path / "config.json")
    if not isinstance(config.get("pretrained_config"), dict) or not isinstance(
        config.get("build_config"), dict
    ):
        raise CheckpointError(
            f"{path / 'config.json'} is not of a TensorRT-LLM engine: it has no pretrained_config and "
            "build_config."
        )
    try:
        engine = _engine(path, config)
    except KeyError as error:
        raise CheckpointError(f"{path / 'config.json'} lacks {error}.") from None
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path / 'config.json'} has a value of the wrong kind: {error}.") from None
    _check_ranks(engine)
    if engine.kv_cache_type.lower() != "paged":
        raise CheckpointError(
            f"The engine in {path} has a KV cache of the type {engine.kv_cache_type}, but serving needs a "
            "paged one: build it with --kv_cache_type paged."
        )
    return engine


def check_version(engine: EngineDir, installed: str) -> None:
    """An engine is loaded by the very version that built it. Raises `CheckpointError`."""
    if engine.version != installed:
        raise CheckpointError(
            f"The engine in {engine.path} was built by TensorRT-LLM {engine.version}, but {installed} is "
            "installed: build it again with the installed version, or install the other."
        )


def check_gpus(engine: EngineDir, gpus: int) -> None:
    """Every rank needs a GPU of its own. Raises `CheckpointError`."""
    if engine.world_size > gpus:
        raise CheckpointError(
            f"The engine in {engine.path} is for {engine.world_size} GPUs (tensor parallel "
            f"{engine.tensor_parallel} x pipeline parallel {engine.pipeline_parallel}), but this runner has "
            f"{gpus}."
        )


def _engine(path: Path, config: dict[str, Any]) -> EngineDir:
    model, build = config["pretrained_config"], config["build_config"]
    mapping, plugins = model.get("mapping") or {}, build.get("plugin_config") or {}
    quantization = model.get("quantization") or {}
    lora = build.get("lora_config") or {}
    # runtime/gptJsonConfig.cpp, parseLora: the plugin counts only with modules and a rank.
    modules = tuple(map(str, lora.get("lora_target_modules") or ()))
    max_rank = int(lora.get("max_lora_rank") or 0)
    has_lora = bool(plugins.get("lora_plugin") and modules and max_rank)
    mode = int(build.get("speculative_decoding_mode") or 1)
    tensor, pipeline = int(mapping.get("tp_size", 1)), int(mapping.get("pp_size", 1))
    context = int(mapping.get("cp_size", 1))
    heads = int(model["num_attention_heads"])
    return EngineDir(
        path=path,
        version=str(config.get("version") or "unknown"),
        architecture=str(model["architecture"]),
        dtype=str(model["dtype"]),
        quantization=quantization.get("quant_algo"),
        kv_cache_quantization=quantization.get("kv_cache_quant_algo"),
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        context_parallel=context,
        world_size=int(mapping.get("world_size", tensor * pipeline * context)),
        vocab_size=int(model["vocab_size"]),
        layers=int(model["num_hidden_layers"]),
        hidden_size=int(model["hidden_size"]),
        mlp_size=int(model["intermediate_size"]) if model.get("intermediate_size") else None,
        heads=heads,
        kv_heads=int(model.get("num_key_value_heads") or heads),
        head_size=int(model.get("head_size") or int(model["hidden_size"]) // heads),
        max_batch_size=int(build["max_batch_size"]),
        max_seq_len=int(build["max_seq_len"]),
        max_num_tokens=int(build["max_num_tokens"]),
        max_beam_width=int(build.get("max_beam_width", 1)),
        tokens_per_block=int(plugins.get("tokens_per_block") or 32),
        kv_cache_type=str(build.get("kv_cache_type") or "paged"),
        paged_context_fmha=bool(plugins.get("use_paged_context_fmha")),
        lora=has_lora,
        lora_modules=modules if has_lora else (),
        max_lora_rank=max_rank if has_lora else 0,
        speculative_decoding=SPECULATIVE_MODES.get(mode, str(mode)),
        max_draft_len=int(build.get("max_draft_len") or 0),
        gather_context_logits=bool(build.get("gather_context_logits")),
        gather_generation_logits=bool(build.get("gather_generation_logits")),
        weight_bytes=sum(file.stat().st_size for file in path.glob("rank*") if file.is_file()),
    )


def _check_ranks(engine: EngineDir) -> None:
    product = engine.tensor_parallel * engine.pipeline_parallel * engine.context_parallel
    if engine.world_size != product:
        raise CheckpointError(
            f"The engine in {engine.path} says world_size {engine.world_size}, but its parallel sizes make "
            f"{product}."
        )
    ranks = {int(found[1]) for file in engine.path.iterdir() if (found := _RANK.fullmatch(file.name))}
    wanted = set(range(engine.world_size))
    if missing := sorted(wanted - ranks):
        names = ", ".join(f"rank{rank}.engine" for rank in missing)
        raise CheckpointError(
            f"The engine directory {engine.path} lacks {names} of {engine.world_size} ranks."
        )
    if extra := sorted(ranks - wanted):
        names = ", ".join(f"rank{rank}.engine" for rank in extra)
        raise CheckpointError(
            f"The engine directory {engine.path} has {names} beyond its {engine.world_size} ranks: two "
            "builds were written into it."
        )
