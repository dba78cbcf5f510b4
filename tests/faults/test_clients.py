"""What clients do to the server, by malice or by a bad line: it refuses in words and serves the others."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.conftest import CHAT, LONG, TEXT, Start, Stream, Victim, run_victim

Say = Callable[[str], None]
MANY = 2000


@pytest.fixture(scope="module")
def victim(victim_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with run_victim(victim_model, tmp_path_factory.mktemp("faults"), "--read-timeout", "3") as victim:
        yield victim


@pytest.fixture(autouse=True)
def unharmed(victim: Victim) -> Iterator[None]:
    """After every test the server holds what it held before and still serves."""
    before = victim.state()
    yield
    victim.recovers(before, 10)


def connect(victim: Victim, **options: int) -> socket.socket:
    raw = socket.socket()
    for name, value in options.items():
        raw.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    raw.settimeout(30)
    url = httpx.URL(victim.url)
    raw.connect((url.host, url.port or 80))
    return raw


def head(path: str, length: int | str, method: str = "POST") -> bytes:
    size = f"content-length: {length}" if isinstance(length, int) else f"transfer-encoding: {length}"
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{size}\r\n\r\n".encode()


def read_all(raw: socket.socket) -> bytes:
    data = b""
    try:
        while piece := raw.recv(65536):
            data += piece
    except ConnectionResetError:
        pass  # it closed on us while we still sent
    return data


def error_in(data: bytes) -> tuple[int, dict[str, str]]:
    """Status and error of a raw response."""
    top, _, body = data.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code", "request_id"}
    return int(top.split()[1]), error


def test_a_client_that_reads_1_byte_a_second(victim: Victim, outcome: Say) -> None:
    body = json.dumps({**LONG, "max_tokens": 900, "stream": True, "logprobs": 5}).encode()
    with connect(victim, SO_RCVBUF=1024) as raw:
        raw.sendall(head(TEXT, len(body)) + body)
        others = 0
        for _ in range(3):
            assert raw.recv(1)
            others += victim.answers()
            time.sleep(1)
        assert others == 3
    victim.server.wait(lambda: victim.server.metric("requests_running") == 0, 2)
    outcome("others were served meanwhile; its sequence ended when it left")


def test_500_half_open_connections(victim: Victim, outcome: Say) -> None:
    with ExitStack() as stack:
        half = [stack.enter_context(connect(victim)) for _ in range(500)]
        for index, raw in enumerate(half):
            if index % 2:
                raw.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-le")
        assert victim.answers()
        closed = [read_all(raw) for raw in half]
    assert {error_in(data)[0] for data in closed if data} == {408}
    assert sum(not data for data in closed) == 250  # who asked nothing is told nothing
    outcome("served others; closed after read_timeout, those in a request with 408")


def test_a_body_that_stops(victim: Victim, outcome: Say) -> None:
    with connect(victim) as raw:
        raw.sendall(head(TEXT, 1000) + b'{"prompt": ')
        status, error = error_in(read_all(raw))
    assert (status, error["code"]) == (408, "request_timeout")
    outcome("408 after read_timeout")


def test_a_client_that_leaves_within_its_body(victim: Victim, outcome: Say) -> None:
    with connect(victim) as raw:
        raw.sendall(head(TEXT, 1000) + b'{"prompt": ')
    assert victim.answers()
    assert "Traceback" not in "".join(victim.server.stderr)
    outcome("nothing was begun, nothing logged as an error")


def test_half_close(victim: Victim, outcome: Say) -> None:
    """A client that closes its sending side counts as gone."""
    body = json.dumps({**LONG, "stream": True}).encode()
    with connect(victim) as raw:
        raw.sendall(head(TEXT, len(body)) + body)
        assert raw.recv(100)
        raw.shutdown(socket.SHUT_WR)
        victim.server.wait(lambda: victim.server.metric("requests_running") == 0, 2)
    outcome("its sequence ended within a step")


def test_2000_connects_at_once(victim: Victim, outcome: Say) -> None:
    request = b"GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    stream = Stream(victim.url, {**LONG, "max_tokens": 60})
    with ExitStack() as stack:
        everyone = [stack.enter_context(connect(victim)) for _ in range(MANY)]
        for raw in everyone:
            raw.sendall(request)
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(read_all, everyone))
    assert sum(answer.startswith(b"HTTP/1.1 200 ") for answer in answers) == MANY
    stream.join()
    assert stream.done
    outcome("all answered; a stream under way ended whole")


def test_a_body_of_100_mb(victim: Victim, outcome: Say) -> None:
    with connect(victim) as raw:  # declared: refused before it is sent
        raw.sendall(head(TEXT, 100_000_000))
        status, error = error_in(read_all(raw))
    assert (status, error["code"]) == (413, "payload_too_large")
    piece = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    with connect(victim) as raw:  # in chunks: refused at the bound
        raw.sendall(head(TEXT, "chunked"))
        sent = 0
        try:
            for _ in range(100):
                raw.sendall(piece)
                sent += 1
        except (ConnectionResetError, BrokenPipeError):
            pass
        else:
            status, error = error_in(read_all(raw))
            assert status == 413
    outcome("413 at once when declared, at the bound when chunked")


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("depth 10000", b'{"prompt": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
        ("depth 100", b'{"prompt": ' + b"[" * 100 + b"]" * 100 + b"}"),
        ("unclosed depth", b"[" * 100_000),
        ("invalid UTF-8", b'{"prompt": "\xff\xfe"}'),
        ("NaN", b'{"prompt": "x", "temperature": NaN}'),
        ("Infinity", b'{"prompt": "x", "temperature": Infinity}'),
        ("lone surrogate", b'{"prompt": "\\ud800"}'),
        ("huge number", b'{"prompt": "x", "max_tokens": 1' + b"0" * 5000 + b"}"),
        ("empty", b""),
        ("not an object", b"[1]"),
        ("binary", bytes(range(256))),
    ],
)
def test_bodies_that_are_no_requests(victim: Victim, outcome: Say, name: str, body: bytes) -> None:
    for path in (TEXT, CHAT, "/v1/responses", "/tokenize"):
        response = httpx.post(victim.url + path, content=body, headers={"content-type": "application/json"})
        assert response.status_code == 400, response.text
        assert set(response.json()["error"]) == {"message", "type", "param", "code", "request_id"}
    outcome(f"400 {response.json()['error']['code']}")


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("n", "n", 1_000_000),
        ("best_of", "best_of", 1_000_000),
        ("logprobs", "logprobs", 1_000_000),
        ("stops", "stop", ["x"] * 1000),
        ("prompts", "prompt", ["x"] * 10_000),
        ("long prompt", "prompt", "word " * 1_000_000),
        ("long ids", "prompt", [5] * 1_000_000),
        ("bias", "logit_bias", {str(index): 1 for index in range(100_000)}),
        ("seed", "seed", 2**70),
    ],
)
def test_sizes_beyond_reason(victim: Victim, outcome: Say, name: str, field: str, value: object) -> None:
    with ThreadPoolExecutor(1) as thread:
        big = thread.submit(
            httpx.post, victim.url + TEXT, json={"prompt": "x", "max_tokens": 2, field: value}, timeout=60
        )
        pauses = []
        while not big.done():
            began = time.monotonic()
            assert httpx.get(f"{victim.url}/health/live", timeout=30).status_code == 200
            pauses.append(time.monotonic() - began)
    response = big.result()
    assert response.status_code in (400, 413), response.text[:300]
    assert response.json()["error"]["param"] in (field, None)
    outcome(f"{response.status_code} {response.json()['error']['code']}")


def test_a_head_without_end(victim: Victim, outcome: Say) -> None:
    with connect(victim) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n")
        try:
            for index in range(10_000):
                raw.sendall(b"x-%d: " % index + b"a" * 100 + b"\r\n")
        except (ConnectionResetError, BrokenPipeError):
            outcome("closed at 64 KiB")
            return
        status, error = error_in(read_all(raw))
    assert (status, error["code"]) == (431, "headers_too_large")
    outcome("431 at 64 KiB")


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\x00" * 1000])
def test_what_is_not_http(victim: Victim, outcome: Say, data: bytes) -> None:
    with connect(victim) as raw:
        raw.sendall(data)
        status, error = error_in(read_all(raw))
    assert (status, error["code"]) == (400, "invalid_http")
    outcome("400 in the shape of every error")


def test_100_clients_that_leave_at_once(victim: Victim, outcome: Say) -> None:
    """Queued, in prefill, decoding, streamed or not, some before anything was answered."""
    with ExitStack() as stack:
        for index in range(100):
            body = json.dumps(
                {
                    **LONG,
                    "prompt": "word " * (index % 7 * 100 + 1),
                    "stream": bool(index % 2),
                    "max_tokens": 200,
                }
            ).encode()
            raw = stack.enter_context(connect(victim))
            raw.sendall(head(TEXT, len(body)) + body)
        victim.server.wait(lambda: victim.server.metric("requests_running") > 4, 10)
    gone = time.monotonic()
    victim.server.wait(
        lambda: victim.server.metric("requests_running") + victim.server.metric("requests_waiting") == 0, 10
    )
    outcome(f"nothing of them runs or waits after {time.monotonic() - gone:.1f} s")


def test_request_ids_cannot_forge_log_lines(victim: Victim, outcome: Say) -> None:
    with connect(victim) as raw:
        raw.sendall(
            b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-request-id: a b id=c\r\nconnection: close\r\n\r\n"
        )
        headers = read_all(raw).decode().lower().partition("\r\n\r\n")[0]
    assert headers.split("x-request-id: ")[1].split("\r\n")[0].isalnum()
    outcome("an insane id is replaced")


def test_files_and_templates_of_a_client_are_not_used(victim: Victim, outcome: Say, tmp_path: Path) -> None:
    message = {"role": "user", "content": "{{ 7 * 7 }} {% for x in ().__class__.__bases__ %}{% endfor %}"}
    rendered = httpx.post(f"{victim.url}{CHAT}/render", json={"messages": [message]}).json()
    assert "{{ 7 * 7 }}" in rendered["prompt"]
    for name in ("chat_template", "chat_template_kwargs"):
        value: object = "{{ 1 }}" if name == "chat_template" else {"chat_template": "{{ 1 }}"}
        response = httpx.post(
            victim.url + CHAT, json={"messages": [message], "max_tokens": 1, name: value}, timeout=30
        )
        assert response.status_code == 400, response.text
    outcome("text stays text; a template is refused by name")


def test_too_many_wait(start: Start, outcome: Say) -> None:
    with start("--limits.max-waiting-requests", "4", "--torch.max-batch-size", "1") as victim:
        before = victim.state()
        streams = [Stream(victim.url, {**LONG, "max_tokens": 50}) for _ in range(16)]
        for stream in streams:
            stream.join()
        refused = [stream for stream in streams if stream.status == 429]
        served = [stream for stream in streams if stream.status == 200]
        assert len(refused) + len(served) == 16
        assert refused
        assert all(stream.done for stream in served)
        for stream in refused:
            assert int(stream.headers["retry-after"]) >= 1
            assert int(stream.headers["retry-after-ms"]) >= 1000
        assert victim.server.metric("rejected_total") == len(refused)
        victim.recovers(before)
        outcome(f"{len(served)} served whole, {len(refused)} got 429 with a time to come back")


def test_deadlines(start: Start, outcome: Say) -> None:
    with start("--torch.max-batch-size", "1", "--limits.queue-timeout", "1") as victim:
        before = victim.state()
        long = {**LONG, "max_tokens": 900}
        runs = Stream(victim.url, long)
        runs.wait_for_text()
        waits = httpx.post(victim.url + TEXT, json=LONG, timeout=30)
        assert waits.status_code == 429
        assert waits.json()["error"]["code"] == "queue_timeout"
        late = httpx.post(victim.url + TEXT, json=LONG, headers={"x-request-timeout": "0.3"}, timeout=30)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        bad = httpx.post(victim.url + TEXT, json=LONG, headers={"x-request-timeout": "soon"}, timeout=30)
        assert (bad.status_code, bad.json()["error"]["param"]) == (400, "x-request-timeout")
        runs.join()
        cut = Stream(victim.url, {**long, "timeout": 0.5})
        cut.join()
        assert cut.chunks[0]["choices"]
        assert cut.error is not None
        assert cut.error["code"] == "timeout"
        assert victim.server.metric("cancelled_total") >= 2
        victim.recovers(before)
        outcome("in the queue 429, before the answer 504, in a stream an error event")


def test_keys_guard_everything_but_health(start: Start, outcome: Say, tmp_path: Path) -> None:
    from trtllm_openai.api.auth import make_key

    user, line = make_key("alice", "api")
    admin, admin_line = make_key("ops", "admin")
    file = tmp_path / "keys"
    file.write_text(f"{line}\n{admin_line}\n")
    with (
        start("--api-keys-file", str(file), "--limits.max-requests-per-key", "1", key=admin) as victim,
        httpx.Client(base_url=victim.url, headers={"authorization": f"Bearer {user}"}, timeout=60) as alice,
        httpx.Client(base_url=victim.url, headers={"authorization": f"Bearer {admin}"}, timeout=60) as chief,
    ):
        paths = (
            "/v1/models",
            "/metrics",
            "/status",
            "/prometheus/metrics",
            "/admin/runners",
            "/docs",
            "/openapi.json",
            "/version",
            "/nowhere",
        )
        for path in paths:
            assert httpx.get(victim.url + path).status_code == 401
        for path in (
            "/health",
            "/health/live",
            "/health/ready",
            "/health/startup",
            "/health_generate",
            "/ping",
        ):
            assert httpx.get(victim.url + path).status_code == 200
        assert alice.get("/v1/models").status_code == 200
        assert alice.get("/metrics").status_code == 403
        assert alice.post("/admin/runners/0/restart").status_code == 403
        short: list[tuple[str, dict[str, Any]]] = [
            (TEXT, {"prompt": "x", "max_tokens": 1}),
            (CHAT, {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}),
            ("/v1/responses", {"input": "x", "max_output_tokens": 1}),
        ]
        for path, body in short * 2:  # each gives its slot back
            for more in ({}, {"stream": True}):
                assert alice.post(path, json=body | more).status_code == 200
        stream = Stream(victim.url, {**LONG, "max_tokens": 200}, {"authorization": f"Bearer {user}"})
        stream.wait_for_text()
        second = alice.post(TEXT, json={"prompt": "x", "max_tokens": 1})
        assert (second.status_code, second.json()["error"]["code"]) == (429, "key_concurrency")
        stream.join()
        assert chief.get("/v1/models").status_code == 403
        (was,) = chief.get("/admin/runners").json()["runners"]
        assert (was["state"], was["pid"]) == ("ready", victim.runners()[0])
        assert chief.post("/admin/runners/7/restart").status_code == 404
        assert chief.post("/admin/runners/0/restart").status_code == 202
        victim.server.wait(lambda: victim.runners() not in ([], [was["pid"]]), 30)
        victim.server.wait(lambda: alice.get("/health/ready").status_code == 200, 30)
        log = "".join(victim.server.stderr)
        assert user not in log
        assert admin not in log
        outcome("401, 403, and 429 for a key's second request; no key in the log")
