"""The table of all metrics: name, type, description, labels and bounds. docs/operations.md repeats it."""

from __future__ import annotations

from trtllm_openai.generation import GUIDE_COMPILE_BOUNDS, STEP_TOKEN_BOUNDS
from trtllm_openai.telemetry.values import Definition

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
# vLLM's buckets, for metrics that were added for its dashboards. Those of token counts end at the longest
# sequence there (`telemetry.vllm`).
_VLLM_SECONDS = (
    *(0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60),
    *(120, 240, 480, 960, 1920, 7680),
)
_VLLM_TOKENS = tuple(mantissa * 10**exponent for exponent in range(7) for mantissa in (1, 2, 5))
_VLLM_N = (1, 2, 5, 10, 20)

_HTTP = (
    Definition(
        "http_requests",
        "counter",
        "HTTP requests by route, method and status (499: the client disconnected)",
        ("route", "method", "status"),
    ),
    Definition(
        "model_requests",
        "counter",
        "Accepted requests by model id: the served model or a LoRA adapter",
        ("model_name",),
    ),
    Definition(
        "sequences",
        "counter",
        "Finished sequences by finish reason (cancelled: ended before completion)",
        ("finish_reason",),
    ),
    Definition(
        "rejected",
        "counter",
        "Requests rejected by admission or rate limits, by reason",
        ("reason",),
    ),
    Definition(
        "cancelled",
        "counter",
        "Requests ended before completion, by cause: client_gone, timeout, shutdown or error",
        ("reason",),
    ),
    Definition("prompt_tokens", "counter", "Prompt tokens of accepted requests"),
    Definition("generation_tokens", "counter", "Generated tokens"),
    Definition("prefix_cache_queried_tokens", "counter", "Prompt tokens looked up in the prefix cache"),
    Definition("prefix_cache_hit_tokens", "counter", "Prompt tokens found in the prefix cache"),
    Definition(
        "time_to_first_token_seconds",
        "histogram",
        "Time from a request's arrival to its first token",
        bounds=_SECONDS,
    ),
    Definition(
        "inter_token_latency_seconds",
        "histogram",
        "Time between tokens of one choice; tokens that arrive together share the gap",
        bounds=_SHORT,
    ),
    Definition(
        "time_per_output_token_seconds",
        "histogram",
        "Mean time between tokens of one request, after the first",
        bounds=_SHORT,
    ),
    Definition(
        "e2e_request_latency_seconds",
        "histogram",
        "Time from a request's arrival to its last token",
        bounds=_SECONDS,
    ),
    Definition(
        "queue_time_seconds",
        "histogram",
        "Time that a request waits in the engine's queue",
        bounds=_SECONDS,
    ),
    Definition(
        "prefill_time_seconds", "histogram", "Time to first token without queue time", bounds=_SECONDS
    ),
    Definition("decode_time_seconds", "histogram", "Time from the first token to the last", bounds=_SECONDS),
    Definition("request_prompt_tokens", "histogram", "Prompt tokens of a finished request", bounds=_TOKENS),
    Definition(
        "request_generation_tokens", "histogram", "Generated tokens of a finished request", bounds=_TOKENS
    ),
    Definition(
        "inference_time_seconds",
        "histogram",
        "Time from the end of a request's queue time to its last token",
        bounds=_VLLM_SECONDS,
    ),
    Definition("request_n", "histogram", "n (or best_of) of a finished request", bounds=_VLLM_N),
    Definition(
        "request_max_tokens",
        "histogram",
        "max_tokens of a finished request, as it held: after defaults and limits",
        bounds=_VLLM_TOKENS,
    ),
    Definition(
        "request_longest_choice_tokens",
        "histogram",
        "Generated tokens of a finished request's longest choice",
        bounds=_VLLM_TOKENS,
    ),
    Definition("key_requests", "counter", "Finished generating requests by API key", ("key",)),
    Definition("key_prompt_tokens", "counter", "Their prompt tokens", ("key",)),
    Definition("key_cached_tokens", "counter", "Their prompt tokens found in the prefix cache", ("key",)),
    Definition("key_generation_tokens", "counter", "Their generated tokens", ("key",)),
    Definition("key_rejected", "counter", "Rejected requests by API key", ("key",)),
    Definition(
        "key_time_to_first_token_seconds",
        "histogram",
        "Time to first token by API key",
        ("key",),
        bounds=_SECONDS,
    ),
    Definition(
        "key_e2e_request_latency_seconds",
        "histogram",
        "Time from arrival to last token by API key",
        ("key",),
        bounds=_SECONDS,
    ),
    Definition("open_streams", "gauge", "Open response streams"),
    Definition("requests_not_begun", "gauge", "Sequences without a first token yet"),
    Definition("requests_orphaned", "gauge", "Sequences without a request; above 0 means a leak"),
    Definition(
        "adapter_sequences_running",
        "gauge",
        "Sequences of a LoRA adapter that an engine has begun with",
        ("model_name",),
    ),
    Definition(
        "adapter_sequences_waiting",
        "gauge",
        "Sequences of a LoRA adapter that no engine has begun with",
        ("model_name",),
    ),
    Definition("moved_sequences", "counter", "Sequences restarted on another runner after theirs was lost"),
    Definition(
        "undecodable_messages",
        "counter",
        "Messages that HTTP processes and their supervisor could not decode: a bug",
    ),
)
# Every HTTP process reports the same values of these, so they are not summed.
_POOL = (
    Definition("requests_running", "gauge", "Sequences running in the engines", shared=True),
    Definition("requests_waiting", "gauge", "Sequences waiting in the engines (queue depth)", shared=True),
    Definition(
        "requests_deferred",
        "gauge",
        "Sequences of requests_waiting that wait for a guide to be compiled, and not for room",
        shared=True,
    ),
    Definition("preemptions", "counter", "Sequences that lost their KV blocks to another", shared=True),
    Definition(
        "kv_block_tokens", "gauge", "Tokens of a KV cache block (0: the engine does not say)", shared=True
    ),
    Definition(
        "max_sequence_tokens",
        "gauge",
        "Maximum prompt + generated tokens of a sequence (0: no engine was ready yet)",
        shared=True,
    ),
    Definition("kv_blocks_used", "gauge", "KV cache blocks in use", shared=True),
    Definition("kv_blocks_total", "gauge", "Total KV cache blocks", shared=True),
    Definition("kv_blocks_reused", "counter", "KV cache blocks reused from the prefix cache", shared=True),
    Definition("engine_steps", "counter", "Engine steps", shared=True),
    Definition(
        "step_tokens",
        "histogram",
        "Tokens that an engine step computed, of prompts and generated ones (not tensorrt_llm_pytorch)",
        bounds=STEP_TOKEN_BOUNDS,
        shared=True,
    ),
    Definition("engine_prompt_tokens", "counter", "Prompt tokens prefilled by the engines", shared=True),
    Definition("engine_generated_tokens", "counter", "Tokens generated by the engines", shared=True),
    Definition("guides_compiled", "counter", "Guides compiled by the torch engine", shared=True),
    Definition(
        "guide_cache_hits", "counter", "Guides whose compiled form was kept from an earlier one", shared=True
    ),
    Definition("guide_cache_misses", "counter", "Guides that were not kept and are compiled", shared=True),
    Definition(
        "guides_refused",
        "counter",
        "Guides refused by the torch engine, by error code",
        ("reason",),
        shared=True,
    ),
    Definition(
        "guides_ended",
        "counter",
        "Guides of the torch engine that failed while their text was generated, by reason",
        ("reason",),
        shared=True,
    ),
    Definition(
        "guide_compile_seconds",
        "histogram",
        "CPU time of a guide's compilation on trial in the torch engine",
        bounds=GUIDE_COMPILE_BOUNDS,
        shared=True,
    ),
    Definition("guide_mask_seconds", "counter", "CPU time of the torch engine's token masks", shared=True),
    Definition("drafts", "counter", "Drafts verified by speculative decoding", shared=True),
    Definition("draft_tokens", "counter", "Tokens of these drafts", shared=True),
    Definition(
        "accepted_draft_tokens",
        "counter",
        "Tokens of these drafts that were accepted, by position in the draft, from 0",
        ("position",),
        shared=True,
    ),
    Definition(
        "adapters_sent_again",
        "counter",
        "LoRA adapters that TensorRT-LLM had dropped when asked for",
        shared=True,
    ),
    Definition(
        "runner_undecodable_messages",
        "counter",
        "Messages of HTTP processes that runners could not decode: a bug",
        shared=True,
    ),
    Definition("runners_ready", "gauge", "Runners that accept requests", shared=True),
    Definition("runners", "gauge", "Runners that there are, in whatever phase", shared=True),
    Definition("runners_wanted", "gauge", "Runners that there should be", shared=True),
    Definition(
        "runner_phase",
        "gauge",
        "1 for the phase that a runner is in, as /admin/runners has it",
        ("runner", "phase"),
        shared=True,
    ),
    Definition("runner_requests_running", "gauge", "Sequences running on a runner", ("runner",), shared=True),
    Definition("runner_requests_waiting", "gauge", "Sequences waiting on a runner", ("runner",), shared=True),
    Definition(
        "runner_kv_blocks_used", "gauge", "KV cache blocks in use on a runner", ("runner",), shared=True
    ),
    Definition("runner_kv_blocks_total", "gauge", "KV cache blocks of a runner", ("runner",), shared=True),
    Definition("runner_restarts", "counter", "Runner restarts after a failure", shared=True),
    Definition(
        "build_info",
        "gauge",
        "Always 1; version, engine and model are in the labels",
        ("version", "engine", "model_name"),
        shared=True,
    ),
)
DEFINITIONS = {definition.name: definition for definition in (*_HTTP, *_POOL)}
