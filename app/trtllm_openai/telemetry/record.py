"""What is known of one HTTP request by its end; log line, trace and timings are made from it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from trtllm_openai.generation import SamplingParams
from trtllm_openai.telemetry import logs

log = logging.getLogger("trtllm_openai.access")


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a request's time went, in seconds. `ttft` is `queue` + `prefill`, `decode` comes after it."""

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
    """What a request had generated. `end`: why it ended before its answer was complete; else empty."""

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
    """`begun` and a generation's `first_token` are by `time.perf_counter`, `seconds` counts from `begun`."""

    request_id: str = ""
    method: str = ""
    path: str = ""
    route: str = "other"
    key: str = ""
    status: int = 0
    begun: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    trace_context: dict[str, str] = field(default_factory=dict)
    """The client's traceparent and tracestate."""
    generation: GenerationRecord | None = None
    detached: bool = False
    """The generation goes on after the answer."""

    def fields(self) -> dict[str, str | int | float]:
        """The fields of the log line; those without a value are left out."""
        fields: dict[str, str | int | float] = {
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "ms": round(self.seconds * 1000, 1),
        }
        if self.key:
            fields["key"] = self.key
        if self.generation is not None:
            fields["prompt_tokens"] = self.generation.prompt_tokens
            fields["completion_tokens"] = self.generation.completion_tokens
            fields["finish_reason"] = ",".join(self.generation.finish_reasons) or self.generation.end
            if self.generation.timings is not None:
                fields["ttft_ms"] = round(self.generation.timings.ttft * 1000, 1)
        return fields

    def log(self, level: int = logging.INFO) -> None:
        """Write the request's line."""
        if log.isEnabledFor(level):
            log.log(level, "request", extra=logs.fields(self.fields()))
