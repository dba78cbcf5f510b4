"""LoRA adapters: each is a model of its own, shares no KV block, and is sent again when it was dropped."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path

from scripts.trtllm_checks.server import Server
from scripts.trtllm_checks.table import DifferenceError, Row, expect, row, rows, same
from trtllm_openai.engines.tensorrt_llm.engine_dir import DTYPE_BYTES, EngineDir
from trtllm_openai.engines.tensorrt_llm.lora_files import MODULES, AdapterFiles, module_sizes, open_adapters

FLAG = "--tensorrt-llm.lora-adapters"
OPTIMAL_ADAPTER_SIZE = 8
"""`optimal_adapter_size` of `PeftCacheConfig`, which the server leaves as it is."""
STATISTICS_S = 5.0
UNKNOWN = "no-such-adapter"
PROMPTS = ("대한민국의 수도는", "SELECT name FROM", "Once upon a time", "def main():")
"""An adapter's purpose is not known: it has to change the text of one of them."""
LONG = "Nobody has asked for this before. " * 24
EVICTED = "LoRA: one that was dropped is sent again"
ROW_PARALLEL = ("attn_dense", "mlp_4h_to_h")
"""Modules whose input is cut between tensor parallel ranks; of the others it is the output."""


def given_adapters(engine: EngineDir, flags: Sequence[str]) -> list[AdapterFiles]:
    """The adapters that the flags of the server name. Raises `ConfigError`."""
    values = [after for flag, after in itertools.pairwise(flags) if flag == FLAG]
    values += [flag.removeprefix(f"{FLAG}=") for flag in flags if flag.startswith(f"{FLAG}=")]
    pairs = (value.partition("=") for value in values)
    return open_adapters(engine, {name: str(Path(directory)) for name, _, directory in pairs})


def inapplicable(engine: EngineDir, adapters: Sequence[AdapterFiles]) -> str:
    """Why there is nothing to check; empty if there is."""
    if not engine.lora:
        return "does not apply: the engine was built without LoRA"
    return "" if adapters else f'not shown: name adapters, ARGS="{FLAG} NAME=DIRECTORY"'


def check_adapters(server: Server, names: Sequence[str]) -> list[Row]:
    """Rows of a server with the adapters `names`."""

    def texts(model: str) -> list[str]:
        return [server.text(model=model, prompt=prompt, temperature=0) for prompt in PROMPTS]

    def base() -> str:
        found = [name for name, parent in server.models().items() if parent is None]
        expect(len(found) == 1, f"models without a parent: {found}")
        return found[0]

    def listed() -> str:
        found = {name for name, parent in server.models().items() if parent == base()}
        expect(found == set(names), f"adapters of {base()}: {sorted(found)}, not {sorted(names)}")
        return ", ".join(names)

    def differ() -> str:
        plain = texts(base())
        equal = [name for name in names if texts(name) == plain]
        expect(not equal, f"the same texts as the base model: {', '.join(equal)}")
        return f"on {len(PROMPTS)} prompts"

    def repeat() -> str:
        for name in names:
            for prompt in PROMPTS:
                body = {"model": name, "prompt": prompt, "temperature": 0}
                same(server.same_text(**body), server.text(**body))
        return "streamed and whole"

    def separate() -> str:
        seen = {}
        for model in (base(), *names):
            body = {"model": model, "prompt": LONG, "max_tokens": 1}
            usage = [server.complete(**body)["usage"]["prompt_tokens_details"] for _ in range(2)]
            seen[model] = [one["cached_tokens"] for one in usage]
        wrong = {model: cached for model, cached in seen.items() if cached[0] or not cached[1]}
        expect(not wrong, f"cached tokens of a model's first and second request: {wrong}")
        return f"{len(seen)} models: 0 cached tokens each, then {min(cached[1] for cached in seen.values())}"

    def unknown() -> str:
        response = server.post(model=UNKNOWN)
        expect(response.status_code == 404, f"{response.status_code} {response.text}")
        code = response.json()["error"]["code"]
        expect(code == "model_not_found", f"the code is {code!r}")
        return "404 model_not_found"

    return rows(
        {
            "LoRA: adapters are models": listed,
            "LoRA: their texts differ from the base model's": differ,
            "LoRA: an adapter's text repeats": repeat,
            "LoRA: KV blocks are not shared": separate,
            "LoRA: unknown adapter": unknown,
        }
    )


def check_evicted(server: Server, names: Sequence[str]) -> Row:
    """The row of a server whose executor keeps one adapter (`cache_for_one`)."""

    def check() -> str:
        if len(names) < 2:
            return "not shown: it takes two adapters"
        sent = server.metric("adapters_sent_again_total")
        turns = [[server.text(model=name, temperature=0) for name in names[:2]] for _ in range(2)]
        for before, after in zip(*turns, strict=True):
            same(after, before)
        counted = "adapters_sent_again_total"
        with contextlib.suppress(DifferenceError):
            server.wait("the runner's next statistics", lambda: server.metric(counted) > sent, STATISTICS_S)
        again = server.metric(counted) - sent
        return f"{again:.0f} times" if again else "not shown: the executor kept both adapters"

    return row(EVICTED, check)


def cache_for_one(engine: EngineDir, adapters: Sequence[AdapterFiles]) -> list[str]:
    """The flag for a host cache that holds the largest adapter and no second one.

    Empty with less than two adapters, or where the size of a module is not known.
    """
    size = _bytes_of_one(engine, adapters) if len(adapters) > 1 else None
    return [] if size is None else ["--tensorrt-llm.lora-host-cache-bytes", str(size)]


def _bytes_of_one(engine: EngineDir, adapters: Sequence[AdapterFiles]) -> int | None:
    """By `PeftCacheManager::getPageManagerConfig` (cpp/tensorrt_llm/batch_manager/peftCacheManager.cpp) and
    `LoraCache::determineNumPages` (cpp/tensorrt_llm/runtime/loraCache.cpp).
    """
    widths: dict[str, int] = {}  # of a module at rank 1, on one GPU
    for module in engine.lora_modules:
        if (sizes := module_sizes(engine, module)) is None:
            return None
        cut = 0 if module in ROW_PARALLEL else 1
        widths[module] = sizes[cut] // engine.tensor_parallel + sizes[1 - cut]
    slot = min(widths.values())
    layers = engine.layers // engine.pipeline_parallel
    largest = min(max(one.rank for one in adapters), engine.max_lora_rank)
    optimal = min(OPTIMAL_ADAPTER_SIZE, engine.max_lora_rank)
    per_layer = sum(-(-width // slot) for width in widths.values())
    page = max(optimal * per_layer * layers, -(-largest * max(widths.values()) // slot))
    least = -(-largest * sum(widths.values()) * layers // slot)
    pages = 1
    for adapter in adapters:
        used, needed = 0, 1
        for number, layer, rank, *_ in adapter.config[0].tolist():
            if layer < layers:
                slots = -(-rank * widths[MODULES[number]] // slot)
                used, needed = (slots, needed + 1) if used + slots > page else (used + slots, needed)
        pages = max(pages, needed)
    return max(pages * page, least) * slot * DTYPE_BYTES[engine.dtype]
