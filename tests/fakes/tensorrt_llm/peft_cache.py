"""The executor's cache of LoRA adapters, as far as a request sees it.

Sources in NVIDIA/TensorRT-LLM, cpp/tensorrt_llm/: batch_manager/peftCacheManager.cpp (`addRequestPeft`,
`markRequestDone`), runtime/loraCache.cpp (`put`, `claimPagesWithEvict`), runtime/loraUtils.cpp
(`loraValidateRequestTensors`).
"""

from typing import Any


class LoraExpectedError(Exception):
    """executorImpl.cpp, fetchNewRequests: its text alone is the request's error."""


class PeftCache:
    """Room for `capacity` adapters; the one unused for longest goes first, and one in use never."""

    def __init__(self, build: dict[str, Any], dtype: str, layers: int, capacity: int) -> None:
        lora = build.get("lora_config") or {}
        # runtime/gptJsonConfig.cpp, parseLora
        self.enabled = bool(build["plugin_config"].get("lora_plugin") and lora.get("lora_target_modules"))
        self._max_rank = lora.get("max_lora_rank", 0)
        self._dtype = f"torch.{dtype}"
        self._layers = layers
        self._capacity = capacity
        self._stored: dict[int, int] = {}  # task to its first weight, least recently used first
        self._users: dict[int, set[int]] = {}

    def add(self, request_id: int, lora: Any) -> int:
        """A request becomes active. Returns the first weight of its adapter, 0 without one."""
        if not self.enabled or lora is None:  # NoOpPeftCacheManager ignores what the engine cannot do
            return 0
        task = lora.task_id
        if lora.weights is not None:
            self._check(lora.weights, lora.config)
        elif task not in self._stored:
            raise LoraExpectedError(
                f"LoRA task {task} not found in cache. Please send LoRA weights with request"
            )
        if lora.weights is not None and task not in self._stored:
            self._make_room(task)
            self._stored[task] = int(lora.weights.flatten()[0])
        self._stored[task] = self._stored.pop(task)
        self._users.setdefault(task, set()).add(request_id)
        return self._stored[task]

    def done(self, request_id: int, lora: Any) -> None:
        if lora is not None:
            self._users.get(lora.task_id, set()).discard(request_id)

    def _make_room(self, task: int) -> None:
        if len(self._stored) < self._capacity:
            return
        unused = [other for other in self._stored if not self._users.get(other)]
        if not unused:
            raise LoraExpectedError(f"PEFT Cache is full. Could not store taskId={task}")
        del self._stored[unused[0]]

    def _check(self, weights: Any, config: Any) -> None:
        if str(weights.dtype) != self._dtype:
            raise RuntimeError("Expected lora weights to be the same data type as base model")
        for _, layer, rank in config[:, :3].tolist():
            if not 0 <= layer < self._layers:
                raise RuntimeError("Expected layerId to be in the range [0, numModelLayers)")
            if rank > self._max_rank:
                raise RuntimeError(f"Invalid low_rank ({rank}). low_rank must be smaller than mMaxLowRank")
