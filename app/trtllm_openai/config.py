"""Settings: read from config.yaml, overridden by environment variables, overridden by flags.

Each key is described here. config.yaml repeats every key with its default and its description, which a test
compares. A wrong value is refused, with the key's name, before anything starts.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from trtllm_openai.errors import ConfigError
from trtllm_openai.processes.cores import usable_cores

_SECRET = frozenset({"api_key"})
"""Settings whose values are never shown."""
ENV_PREFIX = "TRTLLM_OPENAI_"
DEFAULT_FILE = Path("config.yaml")
_OF_KUBERNETES = re.compile(
    ENV_PREFIX + r"(\w+_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR))"
)
_URL_OF_KUBERNETES = re.compile(ENV_PREFIX + r"(\w+_)?PORT(_\d+_(TCP|UDP|SCTP))?")
"""Names of https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables"""

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(ge=0)]
LONGEST_TIMEOUT = 7 * 86_400.0
"""Seconds. Event loops overflow on very large timeouts."""
Timeout = Annotated[float, Field(gt=0, le=LONGEST_TIMEOUT)] | None
Lookahead = tuple[Positive, Positive, Annotated[int, Field(ge=0)]]
"""Window, n-gram and verification set size."""

ApiKey = Annotated[str, Field(pattern=r"^[!-~]+$")]
"""Printable ASCII without spaces: it has to travel in a header."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
    block_size: Positive = Field(16, description="tokens per KV block")
    kv_cache_tokens: Positive | None = Field(
        None,
        description="capacity of the KV cache in tokens; null sizes it from free memory, with room for at "
        "least one full-length sequence",
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


class LimitSettings(Section):
    """Limits on queued and running requests, and on what one request holds. Above a queue limit: 429 with
    retry-after. Above a limit of one request: 400 that names the parameter."""

    max_waiting_requests: Positive = Field(
        512, description="maximum number of sequences that no engine has begun with"
    )
    max_waiting_tokens: Positive = Field(
        2_000_000, description="maximum number of prompt tokens of those sequences"
    )
    max_requests_per_key: Positive | None = Field(
        None, description="maximum number of concurrent requests per API key; null is unlimited"
    )
    queue_timeout: Timeout = Field(
        60.0, description="seconds until the engine begins with a request; null is unlimited"
    )
    first_token_timeout: Timeout = Field(
        None, description="seconds until the first token, then the response is 504; null is unlimited"
    )
    request_timeout: Timeout = Field(
        600.0,
        description="seconds until the last token, then the response is 504 or the stream ends with an "
        "error event; a request's timeout or x-request-timeout can only shorten it; null is unlimited",
    )
    client_read_timeout: Timeout = Field(
        60.0,
        description="seconds that a client may leave a full send buffer unread, then its connection is reset "
        "and its generation aborted; null is unlimited",
    )
    max_choices: Positive = Field(
        128, description="maximum number of sequences of one request: prompts times n or best_of"
    )
    max_messages: Positive = Field(
        4096,
        description="maximum number of messages, or input items, of one request, with those of "
        "previous_response_id",
    )
    max_message_parts: Positive = Field(
        4096, description="maximum number of content parts and tool calls in all messages of one request"
    )
    max_tools: Positive = Field(256, description="maximum number of tools of one request")
    max_stop_strings: Positive = Field(64, description="maximum number of stop strings of one request")
    max_stop_length: Positive = Field(
        8192, description="maximum length of all stop strings of one request together, in characters"
    )
    max_stop_token_ids: Positive = Field(1024, description="maximum number of stop_token_ids of one request")
    max_logit_bias: Positive = Field(
        16_384,
        description="maximum number of logit_bias entries of one request, counted once for each of its "
        "sequences",
    )
    max_json_values: Positive = Field(
        65_536,
        description="maximum number of JSON values in one body (messages, tools, schemas, metadata and so "
        "on), without those of lists of texts or token ids",
    )
    max_prompt_length: Positive = Field(
        33_554_432, description="maximum length of a prompt that the chat template renders, in characters"
    )
    render_timeout: Annotated[float, Field(gt=0)] = Field(
        5.0, description="seconds that the chat template may take to render a prompt; above it: 400"
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


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
        protected_namespaces=(),
    )

    engine: Literal["torch", "synthetic", "tensorrt_llm", "tensorrt_llm_pytorch"] = Field(
        "torch",
        description="engine to serve with; tensorrt_llm_pytorch is TensorRT-LLM's PyTorch backend, which "
        "loads a Hugging Face checkpoint, for versions that cannot load engines",
    )
    model: str = Field(
        "demo",
        description="model to serve: a Hugging Face checkpoint directory, a .gguf file of the Llama "
        "family, or demo for the bundled SmolLM2-135M-Instruct; for tensorrt_llm an engine "
        "directory or a directory with engine/ and tokenizer/ in it, and demo is the working "
        "directory",
    )
    served_model_name: str | None = Field(
        None, description="model id in the API; null derives it from the model's name"
    )
    tokenizer: str | None = Field(None, description="tokenizer directory; null is the model's own")
    chat_template: str | None = Field(
        None, description="Jinja file that replaces the tokenizer's chat template"
    )
    tool_parser: Literal["auto", "none", "hermes", "llama3_json", "mistral", "pythonic"] = Field(
        "auto", description="tool-call format of the model; auto detects it from the chat template"
    )
    reasoning_parser: Literal["auto", "none", "think", "mistral", "seed"] = Field(
        "auto",
        description="reasoning tags of the model: think is <think>, mistral is [THINK], seed is "
        "<seed:think>; auto detects them from the chat template",
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
    replicas: Positive = Field(1, description="number of runner processes, each with one engine")
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
    open_health: bool = Field(
        True,
        description="answer /health, /health/ready and /health/startup without an API key, as /health/live "
        "is always",
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
    limits: LimitSettings = LimitSettings()
    torch: TorchSettings = TorchSettings()
    tensorrt_llm: TensorRTLLMSettings = TensorRTLLMSettings()
    synthetic: SyntheticSettings = SyntheticSettings()

    @property
    def adapters(self) -> dict[str, str]:
        """The LoRA adapters of the configured engine: model id to directory."""
        return self.tensorrt_llm.lora_adapters if self.engine == "tensorrt_llm" else {}

    @property
    def http_workers(self) -> int:
        """The number of HTTP processes: `workers`, or its default on this machine."""
        return self.workers or min(max(usable_cores() // 8, 1), 8)

    @property
    def cache_path(self) -> Path:
        """The cache directory: `cache_dir`, or its default."""
        if self.cache_dir:
            return Path(self.cache_dir).expanduser()
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(base).expanduser() / "trtllm-openai"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The file's keys are passed as init arguments: the environment takes precedence over those.
        assert isinstance(env_settings, EnvSettingsSource)
        env_settings.env_vars = {
            name: value
            for name, value in env_settings.env_vars.items()
            if not _is_of_kubernetes(name, value or "")
        }
        return env_settings, init_settings


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and a flag for every setting (`--port`, `--torch.dtype` …), for `load_settings`."""
    parser.add_argument("--config", metavar="FILE", help="settings file (default: config.yaml, if it exists)")
    source: CliSettingsSource[Any] = CliSettingsSource(
        Settings,
        root_parser=parser,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_use_class_docs_for_groups=True,
        cli_kebab_case=True,
    )
    parser.set_defaults(settings_source=source)


def load_settings(arguments: argparse.Namespace) -> Settings:
    """Settings from the file, the environment and the flags of a parser that `add_flags` prepared.

    Raises `ConfigError` naming each wrong key.
    """
    path = Path(arguments.config or DEFAULT_FILE)
    values: dict[str, Any] = {}
    if path.is_file():
        values = _read_yaml(path)
    elif arguments.config:
        raise ConfigError(f"config file {path} does not exist")
    _refuse_unknown_environment()
    flags = arguments.settings_source(parsed_args=arguments)
    try:
        return Settings(_cli_settings_source=flags, **values)
    except ValidationError as error:
        raise ConfigError(_explain(error, path if values else None)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return dict(YamlConfigSettingsSource(Settings, yaml_file=path)())
    except Exception as error:  # YAML's own exceptions, UnicodeDecodeError, a list at top level …
        raise ConfigError(f"config file {path} cannot be read: {error}") from error


def _refuse_unknown_environment() -> None:
    """Raise `ConfigError` for a variable with our prefix that names no setting: it is probably misspelt."""
    known = set()
    for name, field in Settings.model_fields.items():
        known.add(f"{ENV_PREFIX}{name}".upper())
        if isinstance(field.default, Section):
            known.update(f"{ENV_PREFIX}{name}__{sub}".upper() for sub in type(field.default).model_fields)
    for variable, value in os.environ.items():
        name = variable.upper()
        if name.startswith(ENV_PREFIX) and name not in known and not _is_of_kubernetes(name, value):
            raise ConfigError(f"environment variable {variable} is not a setting")


def _is_of_kubernetes(variable: str, value: str) -> bool:
    """Whether Kubernetes injected the variable, into every pod beside a Service with a name like ours.

    For a Service trtllm-openai these include TRTLLM_OPENAI_PORT=tcp://10.0.0.1:8000, which is no port.
    """
    name = variable.upper()
    url = _URL_OF_KUBERNETES if "://" in value else None
    return any(pattern is not None and pattern.fullmatch(name) for pattern in (_OF_KUBERNETES, url))


def _explain(error: ValidationError, path: Path | None) -> str:
    lines = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            where = f" (in {path})" if path else ""
            lines.append(f"{key}: unknown setting{where}")
        elif key in _SECRET:
            lines.append(f"{key}: {item['msg']}")
        else:
            lines.append(f"{key}: {item['msg']} (got {item['input']!r})")
    return "\n".join(lines)
