"""All settings: what concerns the whole server, and the sections.

Each key is described here or in its section. config.yaml repeats every key with its default and its
description, which a test compares.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from trtllm_openai.config.engines import SyntheticSettings, TensorRTLLMSettings, TorchSettings
from trtllm_openai.config.fields import LONGEST_TIMEOUT, ApiKey, ModelNames, Positive, Seconds, Section
from trtllm_openai.config.kv_events import KVEventSettings
from trtllm_openai.config.limits import LimitSettings
from trtllm_openai.config.replicas import ReplicaRange, Replicas
from trtllm_openai.config.runners import RunnerSettings
from trtllm_openai.config.sampling import DefaultSampling
from trtllm_openai.processes.cores import usable_cores


class Settings(Section):
    """All settings. Reads neither environment nor file: that is `load_settings`."""

    model_config = ConfigDict(protected_namespaces=())

    engine: Literal["torch", "synthetic", "tensorrt_llm", "tensorrt_llm_pytorch"] = Field(
        "torch",
        description="engine to serve with; tensorrt_llm_pytorch is TensorRT-LLM's PyTorch backend, which "
        "loads a Hugging Face checkpoint, for versions that cannot load engines",
    )
    model: str = Field(
        "demo",
        description="model to serve: a Hugging Face checkpoint directory, an id on its hub "
        "(org/name or org/name@revision, downloaded once), a .gguf file of the Llama family, or demo for the "
        "bundled SmolLM2-135M-Instruct; for tensorrt_llm an engine "
        "directory or a directory with engine/ and tokenizer/ in it, and demo is the working "
        "directory",
    )
    served_model_name: ModelNames | None = Field(
        None,
        description="model id in the API, or several: requests may use any, and the first is the one that "
        "health checks and metrics show; null derives it from the model's name",
    )
    tokenizer: str | None = Field(None, description="tokenizer directory; null is the model's own")
    chat_template: str | None = Field(
        None, description="Jinja file that replaces the tokenizer's chat template"
    )
    tool_parser: Literal[
        "auto",
        "none",
        "hermes",
        "llama3_json",
        "mistral",
        "pythonic",
        "deepseek_v3",
        "deepseek_v31",
        "qwen3_coder",
        "glm45",
        "kimi_k2",
        "harmony",
        "granite",
        "granite_20b",
        "phi4_mini",
        "functiongemma",
        "gemma4",
    ] = Field("auto", description="tool-call format of the model; auto detects it from the chat template")
    reasoning_parser: Literal[
        "auto", "none", "think", "mistral", "seed", "harmony", "gemma4", "granite", "granite_tags"
    ] = Field(
        "auto",
        description="reasoning tags of the model: think is <think>, mistral is [THINK], seed is "
        "<seed:think>, harmony is the analysis channel, gemma4 is <|channel>thought, granite is the words "
        "of Granite 3.2, granite_tags is <think> and <response>; auto detects them from the chat template",
    )
    generation_config: Literal["auto", "none"] = Field(
        "auto",
        description="whether temperature, top_p, top_k, min_p and repetition_penalty of the model's "
        "generation_config.json are the defaults of requests: auto if it has that file, or none",
    )
    reasoning_field: Literal["reasoning_content", "reasoning", "both"] = Field(
        "reasoning_content", description="field of a message under which chat sends the model's reasoning"
    )
    tool_strict: Literal["auto", "all", "none"] = Field(
        "auto",
        description="the tools whose calls are held to their schemas where no call is required: auto is all "
        "tools as far as their schemas can be enforced, all refuses schemas that cannot be, none is only "
        "tools with strict: true; a request's own tool_strict wins",
    )
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 is every interface")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        8000, description="port to listen on; 0 picks a free one"
    )
    workers: Positive | None = Field(
        None,
        description="number of HTTP processes that share the port; null is one per 8 available cores, at "
        "least 1 and at most 8",
    )
    replicas: Replicas = Field(
        1,
        description="number of runner processes, each with one engine; with {min: 1, max: 4} it follows the "
        "load, see runners.scale_*",
    )
    gpus: list[str] | None = Field(
        None,
        description="GPUs to divide among the replicas, by index or UUID; null is CUDA_VISIBLE_DEVICES, "
        "or all GPUs",
    )
    gpus_per_replica: Positive | None = Field(
        None,
        description="GPUs per replica; null is the engine's world size for tensorrt_llm, else its "
        "tensor_parallel_size",
    )
    cache_dir: str | None = Field(
        None, description="directory for converted models; null is $XDG_CACHE_HOME/trtllm-openai"
    )
    max_stored_responses: Annotated[int, Field(ge=0)] = Field(
        1000,
        description="number of /v1/responses results kept for previous_response_id; the oldest of the API "
        "key that has most are evicted first",
    )
    max_stored_response_bytes: Annotated[int, Field(ge=0)] = Field(
        256 * 2**20, description="size of those results as JSON, with their conversations"
    )
    api_keys_file: str | None = Field(
        None,
        description="file with the hashes of API keys (see `trtllm-openai key`); null and no api_key "
        "disable authentication",
    )
    api_key: ApiKey | None = Field(
        None,
        repr=False,
        description="one API key with the scopes api and admin, beside those of api_keys_file; set it with "
        "the environment variable TRTLLM_OPENAI_API_KEY, as other users of the machine see the "
        "flag in the list of processes",
    )
    web: bool = Field(
        True,
        description="serve a page for browsers at /: chat, and the server's status; its files need no key",
    )
    open_health: bool = Field(
        True,
        description="answer /health, /health/ready, /health/startup, /health_generate and /ping without an "
        "API key, as /health/live is always",
    )
    open_metrics: bool = Field(
        False,
        description="answer /metrics and /prometheus/metrics without an API key, for an endpoint picker, "
        "which has none",
    )
    max_key_labels: Positive = Field(
        100,
        description="maximum number of API key names with metrics and usage of their own, the first of the "
        "file; those of all others are added up as other",
    )
    prefix_sharing: Literal["key", "all"] = Field(
        "key",
        description="who finds a prompt's prefix in the cache, which cached_tokens and latency tell: key is "
        "the API key that sent it (where keys are set), all is everybody; cache_salt divides further",
    )
    tls_certificate: str | None = Field(
        None, description="PEM file with the certificate chain; null disables TLS"
    )
    tls_key: str | None = Field(None, description="PEM file with the certificate's private key")
    cors_origins: list[str] = Field([], description="origins allowed by CORS; [*] is all")
    max_body_bytes: Positive = Field(
        16 * 2**20, description="maximum size of a request body, after decompression too; above it: 413"
    )
    max_receiving_bytes: Positive = Field(
        256 * 2**20,
        description="maximum size of all request bodies that are being received together, divided evenly "
        "among the HTTP processes; above it the largest one: 503",
    )
    read_timeout: Annotated[float, Field(gt=0)] = Field(
        30.0,
        description="seconds to receive a request's headers, and the longest pause within its body; above "
        "it: 408",
    )
    ping_interval: Annotated[int, Field(ge=1, le=15)] = Field(
        15, description="seconds without data after which a stream gets a keep-alive comment"
    )
    drain_timeout: Seconds = Field(
        30.0, description="seconds that running requests get to finish after SIGTERM"
    )
    load_timeout: Annotated[float, Field(gt=0)] = Field(
        1800.0, description="seconds an engine may take to load before the runner counts as failed"
    )
    stall_timeout: Annotated[float, Field(gt=0)] = Field(
        120.0, description="seconds without any output while requests run, after which the runner is replaced"
    )
    runner_retry_interval: Annotated[float, Field(gt=0, le=LONGEST_TIMEOUT)] = Field(
        300.0,
        description="seconds before a runner that was given up (it could not start) is started again; until "
        "then requests get 503 if there is no other",
    )
    max_json_depth: Positive = Field(64, description="maximum nesting depth of a request body; above it: 400")
    server_timing: bool = Field(
        False,
        description="add a Server-Timing header to unstreamed responses, and timings (queue, prefill, "
        "time to first token, decode) to every final usage",
    )
    log_format: Literal["text", "json"] = Field("text", description="format of log records, one per line")
    log_bodies: bool = Field(
        False, description="log request bodies, including everything that users write in them"
    )
    otlp_endpoint: str | None = Field(
        None,
        description="OTLP/HTTP endpoint for OpenTelemetry traces, e.g. http://host:4318; null is "
        "$OTEL_EXPORTER_OTLP_ENDPOINT, without which there are no traces",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="minimum level of log records"
    )
    default_sampling: DefaultSampling = DefaultSampling()
    limits: LimitSettings = LimitSettings()
    kv_events: KVEventSettings = KVEventSettings()
    runners: RunnerSettings = RunnerSettings()
    torch: TorchSettings = TorchSettings()
    tensorrt_llm: TensorRTLLMSettings = TensorRTLLMSettings()
    synthetic: SyntheticSettings = SyntheticSettings()

    @property
    def adapters(self) -> dict[str, str]:
        """The LoRA adapters of the configured engine: model id to directory."""
        return self.tensorrt_llm.lora_adapters if self.engine == "tensorrt_llm" else {}

    @property
    def model_name(self) -> str | None:
        """The first of `served_model_name`; None if the model's own name is used."""
        return self.served_model_name[0] if self.served_model_name else None

    @property
    def aliases(self) -> list[str]:
        """The further ids of the model in the API."""
        return self.served_model_name[1:] if self.served_model_name else []

    @property
    def http_workers(self) -> int:
        """The number of HTTP processes: `workers`, or its default on this machine."""
        return self.workers or min(max(usable_cores() // 8, 1), 8)

    @property
    def replica_range(self) -> ReplicaRange:
        """The least and the greatest number of runners; equal where `replicas` is a number."""
        if isinstance(self.replicas, int):
            return ReplicaRange(min=self.replicas, max=self.replicas)
        return self.replicas

    @property
    def cache_path(self) -> Path:
        """The cache directory: `cache_dir`, or its default."""
        if self.cache_dir:
            return Path(self.cache_dir).expanduser()
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(base).expanduser() / "trtllm-openai"
