"""OpenTelemetry tracing: one span per generating request, by the semantic conventions for GenAI.

Enabled by `otlp_endpoint` or OpenTelemetry's own environment variables; OpenTelemetry is not imported
otherwise. A span is created after its request has ended. A background thread exports spans in batches (OTLP
over HTTP, protobuf) and drops them if the receiver is slow or unreachable.
"""

from __future__ import annotations

import os
import threading
import time
from urllib.parse import urlsplit

from trtllm_openai import __version__
from trtllm_openai.config import Settings
from trtllm_openai.errors import ConfigError
from trtllm_openai.telemetry.record import GenerationRecord, RequestRecord

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/responses/compact": "chat",
    "/v1/completions": "text_completion",
}
"""Generating routes with their `gen_ai.operation.name`."""
CONTEXT_HEADERS = ("traceparent", "tracestate")
VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
SERVICE = "trtllm-openai-server"
SEND_ON_EXIT = 3.0
"""Timeout in seconds for exporting the remaining spans at shutdown."""

Attributes = dict[str, str | int | float | list[str]]


class Tracer:
    """Creates and exports the spans of requests."""

    def __init__(self, settings: Settings) -> None:
        """Raises `ConfigError` if OpenTelemetry is not installed or the endpoint is invalid."""
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise ConfigError(
                f"otlp_endpoint: tracing requires OpenTelemetry ({error.name} is missing): "
                "pip install 'trtllm-openai-server[tracing]'"
            ) from None
        endpoint = None  # the exporter's own variables
        if settings.otlp_endpoint:
            parts = urlsplit(settings.otlp_endpoint)
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise ConfigError(
                    "otlp_endpoint: it must be the URL of an OTLP receiver, such as http://host:4318"
                )
            endpoint = settings.otlp_endpoint.rstrip("/") + "/v1/traces"
        name = os.environ.get("OTEL_SERVICE_NAME") or SERVICE
        resource = Resource.create({"service.name": name, "service.version": __version__})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer(SERVICE, __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._trace = trace
        self._address: Attributes = {"server.address": settings.host, "server.port": settings.port}

    def record(self, record: RequestRecord, model: str) -> None:
        """Create the span of a finished request. Does not block."""
        end = time.time_ns()
        begun = end - round((time.perf_counter() - record.begun) * 1e9)
        operation = OPERATIONS[record.route]
        attributes: Attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "trtllm_openai",
            "gen_ai.request.model": model,
            "http.request.method": record.method,
            "http.route": record.route,
            "http.response.status_code": record.status,
            "request.id": record.request_id,
            **self._address,
        }
        generation = record.generation
        if generation is not None:
            attributes |= _generation(generation, model)
        error = _error(record)
        if error:
            attributes["error.type"] = error
        span = self._tracer.start_span(
            f"{operation} {model}",
            context=self._propagator.extract(record.trace_context),
            kind=self._trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=begun,
        )
        if generation is not None and generation.first_token is not None:
            first = begun + round((generation.first_token - record.begun) * 1e9)
            span.add_event("gen_ai.first_token", timestamp=first)
        if (
            error and not 400 <= record.status < 500
        ):  # only 5xx is an error of a server span, by the conventions for HTTP
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(end)

    def close(self) -> None:
        """Export the remaining spans within `SEND_ON_EXIT` seconds."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(SEND_ON_EXIT)


def make_tracer(settings: Settings) -> Tracer | None:
    """Create a tracer if an endpoint is configured, else return None. Raises `ConfigError`."""
    if settings.otlp_endpoint or any(os.environ.get(name) for name in VARIABLES):
        return Tracer(settings)
    return None


def _error(record: RequestRecord) -> str:
    end = record.generation.end if record.generation is not None else ""
    if record.status >= 400 and end in ("", "error"):
        return str(record.status)
    return end


def _generation(generation: GenerationRecord, model: str) -> Attributes:
    sampling = generation.sampling
    attributes: Attributes = {
        "gen_ai.response.model": model,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.usage.input_tokens": generation.prompt_tokens,
        "gen_ai.usage.output_tokens": generation.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": generation.cached_tokens,
        "gen_ai.response.finish_reasons": generation.finish_reasons,
    }
    optional = {
        "gen_ai.request.choice.count": generation.choices if generation.choices != 1 else None,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.top_k": sampling.top_k or None,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty or None,
        "gen_ai.request.presence_penalty": sampling.presence_penalty or None,
    }
    attributes |= {name: value for name, value in optional.items() if value is not None}
    if generation.timings is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = generation.timings.ttft
        attributes["trtllm_openai.queue_time"] = generation.timings.queue
    return attributes
