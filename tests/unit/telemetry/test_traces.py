"""Whether there are traces at all, and what is said when there cannot be any."""

import sys

import pytest

from trtllm_openai.config import Settings
from trtllm_openai.errors import ConfigError
from trtllm_openai.telemetry.record import RequestRecord
from trtllm_openai.telemetry.traces import VARIABLES, make_tracer


@pytest.fixture(autouse=True)
def _without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_off_without_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)  # an import would fail
    assert make_tracer(Settings()) is None


@pytest.mark.parametrize("by", ["setting", *VARIABLES])
def test_refused_where_opentelemetry_is_missing(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    settings = Settings(otlp_endpoint="http://127.0.0.1:4318" if by == "setting" else None)
    if by != "setting":
        monkeypatch.setenv(by, "http://127.0.0.1:4318")
    with pytest.raises(ConfigError, match=r"^otlp_endpoint: .*\[tracing\]"):
        make_tracer(settings)


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    pytest.importorskip("opentelemetry.sdk")
    with pytest.raises(ConfigError, match=r"^otlp_endpoint: .*http://host:4318"):
        make_tracer(Settings(otlp_endpoint=endpoint))


def test_a_receiver_that_is_gone_costs_nothing_but_the_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.sdk")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # seconds of trying again
    tracer = make_tracer(Settings(otlp_endpoint="http://127.0.0.1:9"))
    assert tracer is not None
    for _ in range(5000):  # more than the queue of spans holds
        tracer.record(RequestRecord(method="POST", route="/v1/completions", status=200), "m")
    tracer.close()
