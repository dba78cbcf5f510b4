"""Settings: config.yaml, overridden by environment variables, overridden by flags.

Each key is described here once; config.yaml repeats every key with its default and a comment, and a test
holds the two together. A value that is wrong is refused before anything starts, with the key's name.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from trtllm_openai.errors import ConfigError
from trtllm_openai.processes.cores import usable_cores

ENV_PREFIX = "TRTLLM_OPENAI_"
DEFAULT_FILE = Path("config.yaml")

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(ge=0)]
LONGEST_TIMEOUT = 7 * 86_400.0
"""Seconds; the clocks of an event loop do not take any number."""
Timeout = Annotated[float, Field(gt=0, le=LONGEST_TIMEOUT)] | None


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TorchSettings(Section):
    """The embedded PyTorch engine."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU when there is one")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="auto is bfloat16 where the device computes in it, else float32"
    )
    quantization: Literal["none", "fp8", "int8"] = Field(
        "none",
        description="int8 rounds weights, and inputs of products as they come, to 8 bits on a CPU, fp8 does "
        "so on a GPU of Hopper's kind or later",
    )
    load_format: Literal["auto", "dummy"] = Field(
        "auto",
        description="dummy makes random weights up, for measuring: only config.json and a tokenizer are read",
    )
    max_batch_size: Positive | None = Field(
        None, description="sequences that run at once; the rest wait; null is 32 on a CPU and 256 on a GPU"
    )
    max_seq_len: Positive | None = Field(
        None, description="prompt + generated tokens of one sequence; null is the model's own limit"
    )
    max_num_tokens: Positive | None = Field(
        None,
        description="tokens computed in one step; longer prompts are prefilled in chunks; null is 512 on a "
        "CPU and 8192 on a GPU",
    )
    block_size: Positive = Field(16, description="tokens in one KV block")
    kv_cache_tokens: Positive | None = Field(
        None,
        description="tokens the KV cache holds; null sizes it from free memory, and never below one "
        "full-length sequence",
    )
    enable_prefix_caching: bool = Field(
        True, description="keep KV blocks after their sequence and reuse them for equal prompt beginnings"
    )
    kv_cache_memory_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="share of the free GPU memory given to the KV cache when kv_cache_tokens is null"
    )
    tensor_parallel_size: Positive = Field(
        1,
        description="processes that share one model, each with a part of it, and with a GPU where there are",
    )
    threads: Annotated[int, Field(ge=0)] = Field(0, description="CPU threads; 0 is one for each core")


class TensorRTLLMSettings(Section):
    """TensorRT-LLM: a prebuilt engine directory, or its PyTorch backend."""

    tensor_parallel_size: Positive = Field(
        1, description="GPUs of one runner of tensorrt_llm_pytorch; an engine directory says its own"
    )
    max_seq_len: Positive | None = Field(
        None, description="of tensorrt_llm_pytorch; null is the model's own, an engine directory says its own"
    )

    launch: Literal["orchestrator", "leader"] = Field(
        "orchestrator",
        description="how the ranks of a multi-GPU engine start: orchestrator spawns them on this machine, "
        "leader starts the runner by mpi_command, one process a rank, maybe on several machines",
    )
    mpi_command: str = Field(
        "mpirun --bind-to none -n {world}",
        description="what starts a runner in leader mode; {world} is the number of ranks",
    )
    kv_cache_memory_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="share of the free GPU memory given to the KV cache"
    )
    kv_cache_tokens: Positive | None = Field(
        None, description="tokens the KV cache holds at most; null leaves it to kv_cache_memory_fraction"
    )
    enable_block_reuse: bool = Field(
        True, description="reuse KV blocks of equal prompt beginnings (needs use_paged_context_fmha)"
    )
    enable_chunked_context: bool = Field(
        True, description="prefill long prompts in chunks (needs use_paged_context_fmha)"
    )
    scheduler_policy: Literal["guaranteed_no_evict", "max_utilization"] = Field(
        "guaranteed_no_evict",
        description="guaranteed_no_evict reserves the KV cache of a whole answer, max_utilization packs more "
        "sequences and pauses some when it is full",
    )
    max_batch_size: Positive | None = Field(
        None, description="null is the engine's own; more is not possible"
    )
    max_num_tokens: Positive | None = Field(
        None, description="null is the engine's own; more is not possible"
    )
    max_queue_size: Positive | None = Field(
        None, description="requests that may wait in the executor; null is no bound"
    )
    guided_decoding: bool = Field(
        False, description="let requests demand JSON, a regular expression or a grammar (XGrammar)"
    )
    gpu_weights_percent: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="share of the weights kept on the GPU, for engines built with weight streaming"
    )


class LimitSettings(Section):
    """What may wait and for how long; beyond it: 429 with a time to try again."""

    max_waiting_requests: Positive = Field(512, description="sequences that have not begun")
    max_waiting_tokens: Positive = Field(2_000_000, description="prompt tokens of sequences that wait")
    max_requests_per_key: Positive | None = Field(
        None, description="requests one API key may have open at once; null is no bound"
    )
    queue_timeout: Timeout = Field(
        60.0, description="seconds a sequence may wait in the engine's queue; null is no bound"
    )
    first_token_timeout: Timeout = Field(
        None, description="seconds to the first token, after which the answer is 504; null is no bound"
    )
    request_timeout: Timeout = Field(
        600.0,
        description="seconds to the last token, after which the answer is 504 or an error event; a request's "
        "timeout or x-request-timeout goes before it; null is no bound",
    )


class SyntheticSettings(Section):
    """The synthetic engine: tokens at a set pace, for load tests of everything but the engine."""

    ttft: Seconds = Field(0.05, description="seconds from submission to the first token")
    itl: Seconds = Field(0.01, description="seconds between tokens of one sequence")
    max_batch_size: Positive = Field(1024, description="sequences that run at once; the rest wait")
    max_seq_len: Positive = Field(8192, description="prompt + generated tokens of one sequence")
    load_time: Seconds = Field(0.0, description="seconds that loading pretends to take")


class Settings(BaseSettings):
    """All settings of the server."""

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
        description="which engine serves; tensorrt_llm_pytorch is TensorRT-LLM's PyTorch backend over a "
        "Hugging Face checkpoint, for versions that load no engines",
    )
    model: str = Field(
        "demo",
        description="a Hugging Face checkpoint directory, a .gguf file of the Llama family, or demo: the "
        "bundled SmolLM2-135M-Instruct; for tensorrt_llm a directory that holds engine/ and tokenizer/, or "
        "an engine directory, and demo means the working directory",
    )
    served_model_name: str | None = Field(
        None, description="the model id that clients send; null derives it from the model's name"
    )
    tokenizer: str | None = Field(None, description="directory of the tokenizer; null is the model's own")
    chat_template: str | None = Field(
        None, description="a Jinja file to use in place of the tokenizer's chat template"
    )
    tool_parser: Literal["auto", "none", "hermes", "llama3_json", "mistral", "pythonic"] = Field(
        "auto", description="format of the model's tool calls; auto is what its chat template teaches"
    )
    reasoning_parser: Literal["auto", "none", "think", "mistral", "seed"] = Field(
        "auto",
        description="tags of the model's thinking: think is <think>, mistral [THINK], seed <seed:think>; "
        "auto is what its chat template speaks of",
    )
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 is every interface")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="port to listen on; 0 picks one")
    workers: Positive | None = Field(
        None,
        description="HTTP processes on the port; null is one for every 8 processor cores that this process "
        "may use, at least 1 and at most 8",
    )
    replicas: Positive = Field(1, description="ModelRunner processes, each with one engine")
    gpus: list[str] | None = Field(
        None,
        description="GPUs to share out among the replicas, by index or UUID; null is CUDA_VISIBLE_DEVICES, "
        "or all there are",
    )
    gpus_per_replica: Positive | None = Field(
        None, description="null is the engine's world size for tensorrt_llm, else its tensor_parallel_size"
    )
    cache_dir: str | None = Field(
        None, description="where converted models are kept; null is $XDG_CACHE_HOME/trtllm-openai"
    )
    max_stored_responses: Annotated[int, Field(ge=0)] = Field(
        1000, description="answers of /v1/responses kept for previous_response_id; the oldest go first"
    )
    api_keys_file: str | None = Field(
        None, description="file of API keys' hashes (see `key`); null asks nobody for a key"
    )
    tls_certificate: str | None = Field(None, description="PEM file of the certificate chain; null is no TLS")
    tls_key: str | None = Field(None, description="PEM file of its key")
    cors_origins: list[str] = Field(
        [], description="origins whose pages may call this server; [*] is every one"
    )
    max_body_bytes: Positive = Field(16 * 2**20, description="largest request body; beyond it: 413")
    read_timeout: Annotated[float, Field(gt=0)] = Field(
        30.0, description="seconds that a request's head, or a silence in its body, may take; beyond it: 408"
    )
    ping_interval: Annotated[int, Field(ge=1, le=15)] = Field(
        15, description="seconds of silence before a stream gets a keep-alive comment"
    )
    drain_timeout: Seconds = Field(30.0, description="seconds that live streams get to finish on SIGTERM")
    load_timeout: Annotated[float, Field(gt=0)] = Field(
        1800.0, description="seconds that an engine may take to load before it is given up"
    )
    stall_timeout: Annotated[float, Field(gt=0)] = Field(
        120.0, description="seconds without any result while requests run, after which a runner is replaced"
    )
    max_json_depth: Positive = Field(64, description="deepest nesting of a request body; beyond it: 400")
    server_timing: bool = Field(
        False,
        description="give whole answers a Server-Timing header and every final usage the request's timings: "
        "queue, prefill, time to first token, decode",
    )
    log_format: Literal["text", "json"] = Field("text", description="one line a record, as text or JSON")
    log_bodies: bool = Field(False, description="log request bodies, with all that users write in them")
    otlp_endpoint: str | None = Field(
        None,
        description="OTLP/HTTP receiver of OpenTelemetry traces, as http://host:4318; null is "
        "$OTEL_EXPORTER_OTLP_ENDPOINT, or no traces",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged")
    limits: LimitSettings = LimitSettings()
    torch: TorchSettings = TorchSettings()
    tensorrt_llm: TensorRTLLMSettings = TensorRTLLMSettings()
    synthetic: SyntheticSettings = SyntheticSettings()

    @property
    def http_workers(self) -> int:
        """The number of HTTP processes in force."""
        return self.workers or min(max(usable_cores() // 8, 1), 8)

    @property
    def cache_path(self) -> Path:
        """The cache directory in force."""
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
        # The file arrives as init arguments, so that its keys rank below the environment.
        return env_settings, init_settings


def add_flags(parser: argparse.ArgumentParser) -> CliSettingsSource[Any]:
    """Give `parser` a flag for every setting (`--port`, `--torch.dtype` …) and `--config`."""
    parser.add_argument(
        "--config", metavar="FILE", help="settings file (default: config.yaml if there is one)"
    )
    return CliSettingsSource(
        Settings,
        root_parser=parser,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_use_class_docs_for_groups=True,
        cli_kebab_case=True,
    )


def load_settings(
    flags: CliSettingsSource[Any] | None = None,
    args: argparse.Namespace | None = None,
    file: str | os.PathLike[str] | None = None,
) -> Settings:
    """Read the settings in force. Raises `ConfigError` naming the key and where its value came from."""
    path = Path(file) if file else DEFAULT_FILE
    values: dict[str, Any] = {}
    if path.is_file():
        values = _read_yaml(path)
    elif file:
        raise ConfigError(f"config file {path} does not exist")
    _refuse_unknown_environment()
    try:
        if flags is None:
            return Settings(**values)
        return Settings(_cli_settings_source=flags(parsed_args=args or argparse.Namespace()), **values)
    except ValidationError as error:
        raise ConfigError(_explain(error, path if values else None)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return dict(YamlConfigSettingsSource(Settings, yaml_file=path)())
    except Exception as error:  # the YAML library's own hierarchy, UnicodeDecodeError, a list at top level …
        raise ConfigError(f"config file {path} cannot be read: {error}") from error


def _refuse_unknown_environment() -> None:
    """A misspelt variable must not be ignored in silence."""
    known = set()
    for name, field in Settings.model_fields.items():
        known.add(f"{ENV_PREFIX}{name}".upper())
        if isinstance(field.default, Section):
            known.update(f"{ENV_PREFIX}{name}__{sub}".upper() for sub in type(field.default).model_fields)
    for variable in os.environ:
        if variable.upper().startswith(ENV_PREFIX) and variable.upper() not in known:
            raise ConfigError(f"environment variable {variable} is not a setting")


def _explain(error: ValidationError, path: Path | None) -> str:
    lines = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            where = f" (in {path})" if path else ""
            lines.append(f"{key}: there is no such setting{where}")
        else:
            lines.append(f"{key}: {item['msg']} (got {item['input']!r})")
    return "\n".join(lines)
