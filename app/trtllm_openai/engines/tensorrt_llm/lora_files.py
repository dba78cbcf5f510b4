"""LoRA adapters on disk, as TensorRT-LLM's hf_lora_convert.py writes them.

`model.lora_weights.npy` [1, rows, width]: for each row the flattened matrices of one module of one layer,
padded with zeros. `model.lora_config.npy` [1, rows, 3 or 4] int32: module id, layer, rank and, in the fourth
column, whether it is DoRA. What the executor would refuse with each request (`loraValidateRequestTensors` in
cpp/tensorrt_llm/runtime/loraUtils.cpp) is refused here, before anything starts. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trtllm_openai.engines.tensorrt_llm.engine_dir import EngineDir
from trtllm_openai.errors import ConfigError

WEIGHTS, CONFIG = "model.lora_weights.npy", "model.lora_config.npy"
MODULES = (
    *("attn_qkv", "attn_q", "attn_k", "attn_v", "attn_dense"),
    *("mlp_h_to_4h", "mlp_4h_to_h", "mlp_gate"),
    *("cross_attn_qkv", "cross_attn_q", "cross_attn_k", "cross_attn_v", "cross_attn_dense"),
    *("moe_h_to_4h", "moe_4h_to_h", "moe_gate", "moe_router"),
    *("mlp_router", "mlp_gate_up"),
)
"""By id: `LoraModule::ModuleType` in cpp/include/tensorrt_llm/runtime/loraModule.h."""
_DTYPES = {"float32": np.dtype("f4"), "float16": np.dtype("f2"), "bfloat16": np.dtype("V2")}
"""How numpy stores each: it has no bfloat16 and writes two bytes without a type."""


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """A checked adapter. The arrays are mapped from the files: `weights` [1, rows, width], `config` [1, rows,
    3 or 4]. `rank` is the highest of its rows.
    """

    name: str
    weights: npt.NDArray[Any]
    config: npt.NDArray[np.int32]
    rank: int


def open_adapters(engine: EngineDir, directories: Mapping[str, str]) -> list[AdapterFiles]:
    """Open and check the adapters of `directories`, by name. Raises `ConfigError` with what is wrong."""
    if directories and not engine.lora:
        raise ConfigError(
            f"tensorrt_llm.lora_adapters: the engine in {engine.path} was built without LoRA; build it with "
            "--lora_plugin, --lora_target_modules and --max_lora_rank (build_engine.sh --lora)"
        )
    return [_open(engine, name, Path(given).expanduser()) for name, given in directories.items()]


def _open(engine: EngineDir, name: str, directory: Path) -> AdapterFiles:
    def refuse(reason: str) -> ConfigError:
        return ConfigError(f"tensorrt_llm.lora_adapters: {name} in {directory}: {reason}")

    missing = [file for file in (WEIGHTS, CONFIG) if not (directory / file).is_file()]
    if missing and (directory / "adapter_config.json").is_file():
        raise refuse(
            f"it is a PEFT adapter that was not converted: run TensorRT-LLM's examples/hf_lora_convert.py "
            f"-i {directory} -o DIRECTORY --storage-type {engine.dtype}, and name that directory"
        )
    if missing:
        raise refuse(f"{' and '.join(missing)} not found")
    try:
        weights = np.load(directory / WEIGHTS, mmap_mode="r")
        config = np.load(directory / CONFIG, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise refuse(f"cannot be read: {error}") from None
    if weights.ndim != 3 or config.ndim != 3 or weights.shape[0] != 1 or config.shape[0] != 1:
        raise refuse(
            f"the shapes {weights.shape} and {config.shape} are not [1, rows, width] and [1, rows, 3]"
        )
    if weights.shape[1] != config.shape[1] or not weights.shape[1] or config.shape[2] not in (3, 4):
        raise refuse(f"the shapes {weights.shape} and {config.shape} do not go together")
    if config.dtype != np.int32:
        raise refuse(f"{CONFIG} is of {config.dtype}, not int32")
    if weights.dtype != _DTYPES.get(engine.dtype):
        raise refuse(
            f"{WEIGHTS} is not of the engine's type: convert the adapter with --storage-type {engine.dtype}"
        )
    for row in config[0].tolist():
        if reason := _row_fault(engine, row, weights.shape[2]):
            raise refuse(reason)
    return AdapterFiles(name, weights, config, int(config[0, :, 2].max()))


def _row_fault(engine: EngineDir, row: list[int], width: int) -> str | None:
    """Why the executor would refuse a row of the configuration."""
    number, layer, rank = row[:3]
    module = MODULES[number] if 0 <= number < len(MODULES) else str(number)
    if module not in engine.lora_modules:
        return (
            f"it changes the module {module}, but the engine was built for {', '.join(engine.lora_modules)}"
        )
    if not 0 <= layer < engine.layers:
        return f"it changes layer {layer} of a model with {engine.layers} layers: is it of another model?"
    if not 0 < rank <= engine.max_lora_rank:
        return f"its rank {rank} is above the engine's max_lora_rank {engine.max_lora_rank}"
    sizes = module_sizes(engine, module)
    if sizes is None:
        return None
    values = rank * sum(sizes) + (sizes[1] if len(row) > 3 and row[3] else 0)
    if values > width:
        return f"{module} at rank {rank} takes {values} values, not {width}: is it of another model?"
    return None


def module_sizes(engine: EngineDir, module: str) -> tuple[int, int] | None:
    """Width of a module's input and output (`LoraModule::createLoraModules`); None where it is not known."""
    hidden, mlp = engine.hidden_size, engine.mlp_size
    query = engine.heads * engine.head_size
    # With fewer heads than ranks every rank keeps a copy.
    ranks = engine.tensor_parallel
    key = -(-engine.kv_heads // ranks) * ranks * engine.head_size
    known: dict[str, tuple[int | None, int | None]] = {
        "attn_qkv": (hidden, query + 2 * key),
        "attn_q": (hidden, query),
        "attn_k": (hidden, key),
        "attn_v": (hidden, key),
        "attn_dense": (hidden, hidden),
        "mlp_h_to_4h": (hidden, mlp),
        "mlp_gate": (hidden, mlp),
        "mlp_4h_to_h": (mlp, hidden),
        "mlp_gate_up": (hidden, 2 * mlp if mlp else None),
    }
    inner, outer = known.get(module, (None, None))
    return None if inner is None or outer is None else (inner, outer)
