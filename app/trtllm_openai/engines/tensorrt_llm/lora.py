"""The adapters of a running engine, and how a request says which one it wants.

The executor keeps adapters in a cache on the host and one on the GPU. A request names its adapter by a task
id; the first one brings the weights, later ones the id alone. When the executor has dropped an adapter, it
answers a request without weights with an error (`PeftCacheManager::addRequestPeft` in
cpp/tensorrt_llm/batch_manager/peftCacheManager.cpp), and the request is sent again with them.

KV blocks are never shared between adapters: the task id is part of a block's key (`BlockKey` in
cpp/include/tensorrt_llm/batch_manager/kvCacheManager.h), so each adapter has an id of its own that does not
change while the engine runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtllm_openai.config import TensorRTLLMSettings
from trtllm_openai.engines.tensorrt_llm.lora_files import AdapterFiles
from trtllm_openai.errors import InvalidRequest

EVICTED = re.compile(r"LoRA task \d+ not found in cache")
"""`PeftTaskNotCachedException`: "LoRA task %d not found in cache. Please send LoRA weights with request"."""
CACHE_FULL = re.compile(r"PEFT [Cc]ache is full|in PEFT cache -- .*pageIds")
"""`LoraCacheFullException`: "PEFT Cache is full. Could not store taskId=%d"; or, when the adapters that may
be dropped do not free enough pages, a failed check in `LoraCache::claimPagesWithEvict`
(cpp/tensorrt_llm/runtime/loraCache.cpp)."""


@dataclass(frozen=True, slots=True)
class _Adapter:
    task_id: int
    weights: Any
    """Tensor [rows, width] of the engine's type, on the CPU."""
    config: Any
    """Tensor [rows, 3 or 4] int32: module id, layer, rank, whether it is DoRA."""


class Adapters:
    """The adapters by name, in memory, and which of them the executor was sent."""

    def __init__(self, files: Sequence[AdapterFiles], bindings: Any) -> None:
        self._bindings = bindings
        self._adapters = {one.name: _load(one, number) for number, one in enumerate(files, 1)}
        self._sent: set[str] = set()

    def needs_weights(self, name: str) -> bool:
        """Whether the executor was not sent this adapter yet. Raises `InvalidRequest` if there is none."""
        if name not in self._adapters:
            raise InvalidRequest(f"The engine has no adapter {name!r}.", "model")
        return name not in self._sent

    def lora_config(self, name: str, *, weights: bool) -> Any:
        """The executor's `LoraConfig`, with or without the weights."""
        adapter = self._adapters[name]
        if not weights:
            return self._bindings.LoraConfig(adapter.task_id)
        return self._bindings.LoraConfig(adapter.task_id, adapter.weights, adapter.config)

    def was_sent(self, name: str) -> None:
        """The executor has taken a request with the weights of this adapter."""
        self._sent.add(name)


def peft_cache_config(
    files: Sequence[AdapterFiles], settings: TensorRTLLMSettings, bindings: Any
) -> Any | None:
    """Sizes of the executor's caches of adapters; None without adapters.

    Its `max_adapter_size` is 64 unless it is said, also for an engine built for higher ranks.
    """
    if not files:
        return None
    optional: dict[str, Any] = {}
    if settings.lora_host_cache_bytes is not None:
        optional["host_cache_size"] = settings.lora_host_cache_bytes
    if settings.lora_gpu_cache_fraction is not None:
        optional["device_cache_percent"] = settings.lora_gpu_cache_fraction
    return bindings.PeftCacheConfig(max_adapter_size=max(one.rank for one in files), **optional)


def _load(files: AdapterFiles, task_id: int) -> _Adapter:
    """Read an adapter. The binding takes two dimensions, without the first one of the files
    (cpp/tensorrt_llm/executor/loraConfig.cpp).
    """
    import torch

    weights = np.array(files.weights[0])
    if weights.dtype == np.dtype("V2"):
        tensor = torch.from_numpy(weights.view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(weights)
    return _Adapter(task_id, tensor, torch.from_numpy(np.array(files.config[0])))
