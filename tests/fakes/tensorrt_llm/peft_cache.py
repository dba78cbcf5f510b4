"""The executor's cache of LoRA adapters, as far as a request sees it.

Sources in NVIDIA/TensorRT-LLM, cpp/tensorrt_llm/: batch_manager/peftCacheManager.cpp (`addRequestPeft`,
`markRequestDone`, `getPageManagerConfig`), runtime/loraCache.cpp (`put`, `claimPagesWithEvict`,
`determineNumPages`), runtime/loraUtils.cpp
(`loraValidateRequestTensors`).
"""

from typing import Any


class LoraExpectedError(Exception):
    """executorImpl.cpp, fetchNewRequests: its text alone is the request's error."""


class Pages:
    """The host cache: how many pages it has, and how many an adapter of attention projections takes."""

    def __init__(self, model: dict[str, Any], rank: int, modules: list[str], config: Any) -> None:
        ranks: int = model["mapping"]["tp_size"]
        hidden: int = model["hidden_size"]
        head = hidden // model["num_attention_heads"]
        key: int = -(-model["num_key_value_heads"] // ranks) * head
        outputs = {"attn_q": hidden // ranks, "attn_k": key, "attn_v": key}
        widths = [hidden + outputs[name] for name in modules]
        self._sizes = {1 + list(outputs).index(name): hidden + outputs[name] for name in modules}
        self._width = min(widths)
        layers: int = model["num_hidden_layers"]
        optimal, largest = (
            min(rank, int(size)) for size in (config.optimal_adapter_size, config.max_adapter_size)
        )
        per_layer = optimal * sum(self._slots(width) for width in widths)
        self._page = max(per_layer * layers, self._slots(largest * max(widths)))
        slots = int(config.host_cache_size or 2**30) // (2 * self._width)
        if slots < (least := self._slots(largest * sum(widths) * layers)):
            raise RuntimeError(
                f"[TensorRT-LLM][ERROR] Not enough space allocated to host LoRA cache to hold 1 max sized "
                f"LoRA {slots} < {least}"
            )
        self.total = -(-slots // self._page)

    def of(self, config: Any) -> int:
        used, pages = 0, 1
        for module, _, rank in config[:, :3].tolist():
            slots = self._slots(rank * self._sizes[module])
            used, pages = (slots, pages + 1) if used + slots > self._page else (used + slots, pages)
        return pages

    def _slots(self, size: int) -> int:
        return -(-size // self._width)


class PeftCache:
    """Room for `capacity` adapters in pages; the one unused for longest goes first, one in use never."""

    def __init__(self, config: dict[str, Any], peft_config: Any, capacity: int, wrong: set[str]) -> None:
        model, build = config["pretrained_config"], config["build_config"]
        lora = build.get("lora_config") or {}
        # runtime/gptJsonConfig.cpp, parseLora
        self.enabled = bool(build["plugin_config"].get("lora_plugin") and lora.get("lora_target_modules"))
        self._max_rank = lora.get("max_lora_rank", 0)
        self._dtype = f"torch.{model['dtype']}"
        self._layers = model["num_hidden_layers"]
        self._capacity = capacity
        self._wrong = wrong
        self._pages: Pages | None = None
        if self.enabled:
            self._pages = Pages(model, self._max_rank, lora["lora_target_modules"], peft_config)
        self._stored: dict[int, int] = {}  # task to its first weight, least recently used first
        self._taken: dict[int, int] = {}  # its pages
        self._users: dict[int, set[int]] = {}
        self._added = 0

    def add(self, request_id: int, lora: Any) -> int:
        """A request becomes active. Returns the first weight of its adapter, 0 without one."""
        if not self.enabled or lora is None:  # NoOpPeftCacheManager ignores what the engine cannot do
            return 0
        task = lora.task_id
        if lora.weights is not None:
            self._check(lora.weights, lora.config)
        elif task not in self._stored and "evicted adapter" in self._wrong:
            return 0
        elif task not in self._stored:
            raise LoraExpectedError(
                f"LoRA task {task} not found in cache. Please send LoRA weights with request"
            )
        if lora.weights is not None and task not in self._stored:
            pages = self._pages.of(lora.config) if self._pages is not None else 0
            self._make_room(task, pages)
            self._stored[task] = int(lora.weights.flatten()[0])
            self._taken[task] = pages
        self._stored[task] = self._stored.pop(task)
        self._users.setdefault(task, set()).add(request_id)
        self._added += 1
        if "adapter" in self._wrong:
            return 0
        return self._stored[task] + (self._added if "adapter's repetition" in self._wrong else 0)

    def done(self, request_id: int, lora: Any) -> None:
        if lora is not None:
            self._users.get(lora.task_id, set()).discard(request_id)

    def _make_room(self, task: int, pages: int) -> None:
        while len(self._stored) >= self._capacity or self._short_of(pages):
            unused = [other for other in self._stored if not self._users.get(other)]
            if not unused:
                raise LoraExpectedError(f"PEFT Cache is full. Could not store taskId={task}")
            del self._stored[unused[0]], self._taken[unused[0]]

    def _short_of(self, pages: int) -> bool:
        return self._pages is not None and sum(self._taken.values()) + pages > self._pages.total

    def _check(self, weights: Any, config: Any) -> None:
        if str(weights.dtype) != self._dtype:
            raise RuntimeError("Expected lora weights to be the same data type as base model")
        for _, layer, rank in config[:, :3].tolist():
            if not 0 <= layer < self._layers:
                raise RuntimeError("Expected layerId to be in the range [0, numModelLayers)")
            if rank > self._max_rank:
                raise RuntimeError(f"Invalid low_rank ({rank}). low_rank must be smaller than mMaxLowRank")
