"""Settings of the engines, a section for each kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trtllm_openai.config.fields import Lookahead, Positive, Seconds, Section


class TorchSettings(Section):
    """The embedded PyTorch engine."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="device to run on; auto uses a GPU if there is one"
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="type of weights and activations; auto is bfloat16 if the device computes in it, else "
        "float32",
    )
    quantization: Literal["none", "fp8", "int8"] = Field(
        "none",
        description="8-bit weights with dynamic activation quantization: int8 on a CPU, fp8 on a Hopper "
        "or newer GPU",
    )
    load_format: Literal["auto", "dummy"] = Field(
        "auto",
        description="where weights come from; dummy is random weights for benchmarks, which needs only "
        "config.json and a tokenizer",
    )
    max_batch_size: Positive | None = Field(
        None,
        description="maximum number of running sequences, further ones are queued; null is 32 on a CPU "
        "and 256 on a GPU",
    )
    max_seq_len: Positive | None = Field(
        None, description="maximum prompt + generated tokens of one sequence; null is the model's own limit"
    )
    max_num_tokens: Positive | None = Field(
        None,
        description="maximum number of tokens per step, longer prompts are prefilled in chunks; null is "
        "512 on a CPU and 8192 on a GPU",
    )
    max_step_ms: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="milliseconds that a step with prompts beside decoding sequences aims at, by fewer "
        "prompt tokens: shorter gaps between tokens, at the cost of prompts; how long steps take is learnt "
        "from them; prompts always get a third of the step, and 64 tokens; null is no limit but "
        "max_num_tokens",
    )
    block_size: Positive = Field(16, description="tokens per KV block")
    kv_cache_tokens: Positive | None = Field(
        None,
        description="capacity of the KV cache in tokens; null sizes it from free memory, with room for at "
        "least one full-length sequence",
    )
    kv_cache_dtype: Literal["auto", "fp8"] = Field(
        "auto",
        description="type of cached keys and values; auto is that of activations, fp8 (e4m3, without scales) "
        "has room for twice the tokens of bfloat16 and rounds them",
    )
    enable_prefix_caching: bool = Field(
        True,
        description="keep the KV blocks of finished sequences and reuse them for prompts with the same "
        "prefix",
    )
    kv_cache_memory_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="fraction of free GPU memory for the KV cache if kv_cache_tokens is null"
    )
    tensor_parallel_size: Positive = Field(
        1,
        description="number of tensor-parallel ranks: processes that each hold a shard of the model, each "
        "on a GPU of its own if GPUs are used",
    )
    speculation: Literal["auto", "off", "suffix", "ngram"] = Field(
        "off",
        description="draft the next tokens from the request's own text, its prediction and earlier answers, "
        "and verify several in one step: suffix takes the most frequent continuation of the longest match, "
        "ngram the latest one of up to 4 tokens; auto is suffix where it pays, by what was accepted so far, "
        "the size of the batch and the time of steps; answers do not depend on it",
    )
    speculation_max_draft: Annotated[int, Field(ge=1, le=64)] = Field(
        12, description="maximum number of draft tokens for a sequence in a step"
    )
    speculation_history_tokens: Annotated[int, Field(ge=0)] = Field(
        1_000_000,
        description="tokens of earlier answers that are kept to draft from, apart for each API key and "
        "cache_salt; 0 keeps none, as does enable_prefix_caching: false",
    )
    threads: Annotated[int, Field(ge=0)] = Field(0, description="CPU threads; 0 is one per core")
    guide_processes: Positive = Field(
        2, description="number of guides (schemas, regular expressions, grammars) compiled at a time"
    )
    guide_compile_timeout: Annotated[float, Field(gt=0, le=3600)] = Field(
        5.0, description="CPU seconds for compiling one guide; one that needs more is refused with 400"
    )
    guide_max_memory_mb: Annotated[int, Field(ge=16)] = Field(
        512, description="MiB of memory for compiling one guide; one that needs more is refused with 400"
    )
    guide_max_mask_ms: Annotated[float, Field(gt=0)] = Field(
        5.0,
        description="CPU milliseconds that a guide may take for a token on average, beyond its first 100; "
        "one that takes more ends its sequence with an error",
    )


class TensorRTLLMSettings(Section):
    """TensorRT-LLM: a prebuilt engine directory, or its PyTorch backend."""

    tensor_parallel_size: Positive = Field(
        1, description="GPUs per runner for tensorrt_llm_pytorch; an engine directory has its own value"
    )
    max_seq_len: Positive | None = Field(
        None,
        description="maximum prompt + generated tokens of one sequence for tensorrt_llm_pytorch, null is "
        "the model's own limit; an engine directory has its own value",
    )

    launch: Literal["orchestrator", "leader"] = Field(
        "orchestrator",
        description="launch mode for the ranks of a multi-GPU engine: orchestrator spawns them on this "
        "machine, leader starts the runner with mpi_command as one process per rank, on one "
        "or several machines",
    )
    mpi_command: str = Field(
        "mpirun --bind-to none -n {world}",
        description="command that starts a runner in leader mode; {world} is the number of ranks",
    )
    kv_cache_memory_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="fraction of free GPU memory for the KV cache"
    )
    kv_cache_tokens: Positive | None = Field(
        None,
        description="maximum capacity of the KV cache in tokens; null leaves it to kv_cache_memory_fraction",
    )
    enable_block_reuse: bool = Field(
        True, description="reuse KV blocks for prompts with the same prefix (needs use_paged_context_fmha)"
    )
    enable_chunked_context: bool = Field(
        True, description="prefill long prompts in chunks (needs use_paged_context_fmha)"
    )
    scheduler_policy: Literal["guaranteed_no_evict", "max_utilization"] = Field(
        "guaranteed_no_evict",
        description="scheduling policy: guaranteed_no_evict reserves KV blocks for a sequence's maximum "
        "length, max_utilization packs more sequences and preempts some when the KV cache is "
        "full",
    )
    max_batch_size: Positive | None = Field(
        None,
        description="maximum number of running sequences; null is the engine's own value, which cannot be "
        "exceeded",
    )
    max_num_tokens: Positive | None = Field(
        None,
        description="maximum number of tokens per step; null is the engine's own value, which cannot be "
        "exceeded",
    )
    max_queue_size: Positive | None = Field(
        None, description="maximum number of requests queued in the executor; null is unlimited"
    )
    recv_poll_period_ms: Annotated[int, Field(ge=0)] = Field(
        0,
        description="milliseconds between two looks of a rank for messages in orchestrator mode; 0 polls "
        "without pause, which takes a CPU core",
    )
    guided_decoding: bool = Field(
        False,
        description="enable structured output: JSON schemas, regular expressions and grammars (XGrammar)",
    )
    gpu_weights_percent: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="fraction of the weights kept on the GPU, for engines built with weight streaming"
    )
    lora_adapters: dict[Annotated[str, Field(min_length=1)], str] = Field(
        {},
        description="LoRA adapters of an engine directory: model id in the API to the directory with its "
        "converted weights (model.lora_weights.npy, model.lora_config.npy)",
    )
    lora_host_cache_bytes: Positive | None = Field(
        None,
        description="host memory of each rank for adapters in use; null is TensorRT-LLM's own value (1 GiB)",
    )
    lora_gpu_cache_fraction: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="fraction of free GPU memory for adapters in use; null is TensorRT-LLM's own value",
    )
    lookahead: Lookahead | None = Field(
        None,
        description="window, n-gram and verification set size of an engine built for lookahead decoding; "
        "null takes those that make up the max_draft_len of its build",
    )


class SyntheticSettings(Section):
    """The synthetic engine: tokens at a configured pace, to load-test everything but the engine."""

    ttft: Seconds = Field(0.05, description="seconds from submission to the first token")
    itl: Seconds = Field(0.01, description="seconds between tokens of one sequence")
    max_batch_size: Positive = Field(
        1024, description="maximum number of running sequences, further ones are queued"
    )
    max_seq_len: Positive = Field(8192, description="maximum prompt + generated tokens of one sequence")
    load_time: Seconds = Field(0.0, description="seconds that loading the engine takes")
    script: list[str] = Field(
        [],
        description="texts that it answers with, in the order of requests and then from the first again; "
        "empty: tokens without meaning",
    )
