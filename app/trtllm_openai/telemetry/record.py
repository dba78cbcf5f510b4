"""The record of one HTTP request, from which its log line, trace and timings are made."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from trtllm_openai.generation import SamplingParams
from trtllm_openai.telemetry import logs

log = logging.getLogger("trtllm_openai.access")


@dataclass(frozen=True, slots=True)
class Timings:
    """Latency breakdown of a request in seconds. `ttft` = `queue` + `prefill`; `decode` follows it."""

    queue: float
    prefill: float
    ttft: float
    decode: float

    def header(self) -> dict[str, str]:
        """As a Server-Timing header, in milliseconds."""
        parts = (f"{name};dur={ms:.1f}" for name, ms in self.milliseconds().items())
        return {"server-timing": ", ".join(parts)}

    def milliseconds(self) -> dict[str, float]:
        return {name: round(getattr(self, name) * 1000, 3) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """Results of a generating request. `end`: why it ended before completion; empty if it completed."""

    sampling: SamplingParams
    choices: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    finish_reasons: list[str]
    first_token: float | None
    timings: Timings | None
    end: str


@dataclass(slots=True)
class RequestRecord:
    """Record of one request.

    `begun` and the generation's `first_token` are `time.perf_counter` values; `seconds` is the duration.
    """

    request_id: str = ""
    method: str = ""
    path: str = ""
    route: str = "other"
    client: str = ""
    """Address of the peer, which is a proxy's behind one; empty for a Unix socket."""
    key: str = ""
    status: int = 0
    model: str = ""
    """Id of the model that a generating request reached."""
    code: str = ""
    """Code of the error that the request was answered with, if any."""
    begun: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    trace_context: dict[str, str] = field(default_factory=dict)
    """The client's `traceparent` and `tracestate` headers."""
    generation: GenerationRecord | None = None
    detached: bool = False
    """Whether generation continues in the background after the response."""

    def fields(self) -> dict[str, str | int | float]:
        """Fields of the log line; those without a value are omitted."""
        fields: dict[str, str | int | float] = {
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "ms": round(self.seconds * 1000, 1),
        }
        if self.client:
            fields["client"] = self.client
        if self.key:
            fields["key"] = self.key
        if self.model:
            fields["model"] = self.model
        if self.generation is not None:
            fields["prompt_tokens"] = self.generation.prompt_tokens
            fields["completion_tokens"] = self.generation.completion_tokens
            fields["finish_reason"] = ",".join(self.generation.finish_reasons) or self.generation.end
            if self.generation.timings is not None:
                fields["ttft_ms"] = round(self.generation.timings.ttft * 1000, 1)
        return fields

    def log(self, level: int = logging.INFO) -> None:
        """Write the access-log line."""
        if log.isEnabledFor(level):
            log.log(level, "request", extra=logs.fields(self.fields()))
