"""Logs, traces and timings of the running server."""

import gzip
import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import ROOT, RunningServer, serve
from trtllm_openai.api.auth import make_key

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
SECRET = "what-the-user-wrote"
ASK = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 6, "temperature": 0.5, "seed": 3}
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SYNTHETIC = ("--engine", "synthetic", "--synthetic.ttft", "0.05", "--synthetic.itl", "0.01")


@dataclass
class Receiver:
    """An OTLP/HTTP receiver: the spans that were sent, each with its resource's attributes."""

    url: str = ""
    spans: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        request = trace_service.ExportTraceServiceRequest()
        request.ParseFromString(body)
        for resource in request.resource_spans:
            about = attributes(resource.resource)
            self.spans += [(span, about) for scope in resource.scope_spans for span in scope.spans]


def attributes(holder: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in holder.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found[pair.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            made.take(body)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{listener.server_address[1]}"
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield made
    listener.shutdown()
    listener.server_close()


@dataclass
class Told:
    """What a server told while it answered, read after it ended."""

    server: RunningServer
    key: str
    answers: dict[str, httpx.Response]
    streams: dict[str, list[dict[str, Any]]]
    metrics: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.server.stderr if not line.startswith("loading ")]

    def request(self, request_id: str) -> dict[str, Any]:
        (line,) = [
            line
            for line in self.lines
            if line.get("request_id") == request_id and line["message"] == "request"
        ]
        return line


def read_stream(client: httpx.Client, path: str, body: dict[str, Any], request_id: str) -> list[Any]:
    with client.stream("POST", path, json=body, headers={"x-request-id": request_id}) as response:
        return [
            json.loads(line[6:])
            for line in response.iter_lines()
            if line.startswith("data: ") and line != "data: [DONE]"
        ]


@pytest.fixture(scope="module")
def told(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """A server with everything on, its answers, and all it logged and traced to its end."""
    key, line = make_key("team-a", "api,admin")
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(line + "\n")
    flags = [
        "--log-format",
        "json",
        "--log-level",
        "debug",
        "--log-bodies",
        "true",
        "--server-timing",
        "true",
    ]
    flags += ["--otlp-endpoint", receiver.url, "--api-keys-file", str(keys)]
    with (
        serve(*SYNTHETIC, *flags) as server,
        httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}, timeout=60) as client,
    ):
        parent = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "x-request-id": "whole"}
        answers = {
            "whole": client.post(CHAT, json=ASK, headers=parent),
            "two": client.post(
                TEXT, json={"prompt": "a", "n": 2, "max_tokens": 4}, headers={"x-request-id": "two"}
            ),
            "responses": client.post(
                RESPONSES, json={"input": "a", "max_output_tokens": 4}, headers={"x-request-id": "responses"}
            ),
            "refused": client.post(CHAT, json={**ASK, "top_p": 7}, headers={"x-request-id": "refused"}),
            "stranger": httpx.post(
                server.url + CHAT,
                json=ASK,
                headers={"authorization": "Bearer sk-wrong", "x-request-id": "no"},
            ),
            "odd path": client.get("/v1/%0Aa%20status=200", headers={"x-request-id": "odd"}),
        }
        usage = {"include_usage": True, "continuous_usage_stats": True}
        streams = {
            "stream": read_stream(client, CHAT, {**ASK, "stream": True, "stream_options": usage}, "stream"),
            "late": read_stream(
                client, CHAT, {**ASK, "max_tokens": 500, "stream": True, "timeout": 0.4}, "late"
            ),
        }
        background = {"input": "a", "max_output_tokens": 4, "background": True}
        client.post(RESPONSES, json=background, headers={"x-request-id": "background"}).raise_for_status()
        complete = "trtllm_openai_request_generation_tokens_count 5.0"
        server.wait(lambda: complete in client.get("/metrics").text, 20)
        metrics = client.get("/metrics").text
    return Told(server, key, answers, streams, metrics)


def test_json_logs_have_one_line_per_request(told: Told) -> None:
    line = told.request("whole")
    usage = told.answers["whole"].json()["usage"]
    assert (line["key"], line["method"], line["path"], line["status"]) == ("team-a", "POST", CHAT, 200)
    assert line["prompt_tokens"] == usage["prompt_tokens"]
    assert (line["completion_tokens"], line["finish_reason"]) == (6, "length")
    assert 50 <= line["ttft_ms"] <= line["ms"]
    assert told.request("two")["finish_reason"] == "length,length"
    assert told.request("stream")["completion_tokens"] == 6
    assert told.request("late")["finish_reason"] == "timeout"
    assert told.request("odd")["path"] == "/v1/\na status=200"
    for request_id, status in (("refused", 400), ("no", 401)):
        line = told.request(request_id)
        assert line["status"] == status
        assert "completion_tokens" not in line


def test_bodies_are_logged_where_asked_and_keys_never(told: Told) -> None:
    bodies = {line["request_id"]: line["body"] for line in told.lines if line["message"] == "body"}
    assert json.loads(bodies["whole"]) == ASK
    said = "".join(told.server.stdout + told.server.stderr)
    assert told.key not in said
    assert "sk-wrong" not in said


def test_timings_in_header_and_usage(told: Told) -> None:
    for name in ("whole", "two", "responses"):
        answer = told.answers[name]
        pattern = r"queue;dur=([\d.]+), prefill;dur=([\d.]+), ttft;dur=([\d.]+), decode;dur=([\d.]+)"
        found = re.fullmatch(pattern, answer.headers["server-timing"])
        assert found is not None, name
        queue, prefill, ttft, decode = map(float, found.groups())
        assert queue + prefill == pytest.approx(ttft, abs=0.11)
        assert ttft >= 50
        assert decode > 20
        timings = answer.json()["usage"]["timings"]
        assert set(timings) == {"queue_ms", "prefill_ms", "ttft_ms", "decode_ms"}
        assert timings["ttft_ms"] == pytest.approx(ttft, abs=0.1)
    *parts, last = told.streams["stream"]
    assert last["usage"]["timings"]["ttft_ms"] >= 50
    assert all("timings" not in part["usage"] for part in parts)
    assert "server-timing" not in told.answers["refused"].headers


def test_a_span_for_every_request_that_generates(told: Told, receiver: Receiver) -> None:
    spans = {attributes(span)["request.id"]: span for span, _ in receiver.spans}
    assert set(spans) == {"whole", "two", "responses", "refused", "stream", "late", "background"}
    assert len(receiver.spans) == len(spans)
    span = spans["whole"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    model = told.answers["whole"].json()["model"]
    usage = told.answers["whole"].json()["usage"]
    assert span.name == f"chat {model}"
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.max_tokens": 6,
        "gen_ai.request.seed": 3,
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": 6,
        "gen_ai.response.finish_reasons": ["length"],
        "server.address": "127.0.0.1",
        "http.response.status_code": 200,
    }
    found = attributes(span)
    assert {name: found.get(name) for name in expected} == expected
    assert "error.type" not in found
    (first,) = span.events
    assert first.name == "gen_ai.first_token"
    assert first.time_unix_nano - span.start_time_unix_nano >= 0.05e9
    assert first.time_unix_nano < span.end_time_unix_nano
    assert not spans["two"].parent_span_id
    assert attributes(spans["two"])["gen_ai.operation.name"] == "text_completion"
    assert attributes(spans["two"])["gen_ai.request.choice.count"] == 2
    assert attributes(spans["background"])["gen_ai.usage.output_tokens"] == 4
    errors = {name: attributes(spans[name]).get("error.type") for name in ("refused", "late", "stream")}
    assert errors == {"refused": "400", "late": "timeout", "stream": None}
    failed = [name for name, span in spans.items() if span.status.code == span.status.STATUS_CODE_ERROR]
    assert failed == ["late"]
    assert receiver.spans[0][1]["service.name"] == "trtllm-openai-server"
    assert all(SECRET not in str(span) for span, _ in receiver.spans)


def test_a_background_response_has_one_line_with_its_tokens(told: Told) -> None:
    assert told.request("background")["completion_tokens"] == 4


def test_metrics_of_the_same_requests(told: Told) -> None:
    def metric(name: str) -> float:
        found = re.findall(rf"^trtllm_openai_{name} (\S+)$", told.metrics, re.MULTILINE)
        assert found, name
        return sum(map(float, found))

    late = told.request("late")["completion_tokens"]
    # Each choice has one gap fewer than tokens.
    assert metric("inter_token_latency_seconds_count") == 5 + 2 * 3 + 3 + 5 + 3 + late - 1
    assert metric("generation_tokens_total") == 6 + 8 + 4 + 6 + 4 + late
    assert metric("request_generation_tokens_count") == 5
    assert metric('rejected_total{reason="invalid_api_key"}') == 1
    assert metric('cancelled_total{reason="timeout"}') == 1
    model = told.answers["whole"].json()["model"]
    assert f'vllm:generation_tokens_total{{model_name="{model}"}} ' in told.metrics


def test_without_the_settings_there_is_none_of_it(receiver: Receiver) -> None:
    spans = len(receiver.spans)
    with serve(*SYNTHETIC) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        answer = client.post(CHAT, json=ASK, headers={"x-request-id": "plain"})
        usage = {"include_usage": True}
        stream = read_stream(client, CHAT, {**ASK, "stream": True, "stream_options": usage}, "streamed")
    assert "server-timing" not in answer.headers
    assert "timings" not in answer.json()["usage"]
    assert "timings" not in stream[-1]["usage"]
    assert len(receiver.spans) == spans
    said = "".join(server.stderr)
    assert SECRET not in said
    (line,) = [line for line in server.stderr if "request_id=plain" in line]
    expected = r"INFO +http\S* trtllm_openai.access: request request_id=plain "
    expected += rf"method=POST path={CHAT} status=200 ms=\S+ client=127\.0\.0\.1 model=\S+"
    assert re.search(expected + r" prompt_tokens=\d+ completion_tokens=6 finish_reason=length ttft_ms=", line)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_full_disk_for_logs_hurts_no_request(form: str) -> None:
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "trtllm_openai", "serve", "--port", "0", *SYNTHETIC, "--log-format", form],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
        )
    try:
        assert process.stdout is not None
        url = next(found[1] for line in process.stdout if (found := re.search(r"is ready on (\S+)", line)))
        for _ in range(3):
            assert httpx.post(url + CHAT, json=ASK, timeout=60).json()["usage"]["completion_tokens"] == 6
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0
