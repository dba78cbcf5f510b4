"""Two API keys on one server with two HTTP workers: what each can tell of the other, and take from it."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import RunningServer, serve
from trtllm_openai.api.auth import make_key

TEXT = "/v1/completions"
NAMES = ("alice", "bob", "carol")
LIMITS = {"alice": "concurrent=1", "bob": "", "carol": "requests_per_minute=5 tokens_per_minute=100000"}


class Tenants:
    def __init__(self, server: RunningServer, keys: dict[str, str]) -> None:
        self.server = server
        self.keys = keys

    def ask(self, name: str, body: dict[str, object]) -> httpx.Response:
        """From a new connection, so that either worker may have it."""
        headers = {"authorization": f"Bearer {self.keys[name]}"}
        return httpx.post(self.server.url + TEXT, json=body, headers=headers, timeout=60)

    def usage(self) -> dict[str, dict[str, int]]:
        headers = {"authorization": f"Bearer {self.keys['alice']}"}
        keys: dict[str, dict[str, int]] = httpx.get(
            f"{self.server.url}/admin/usage", headers=headers, timeout=30
        ).json()["keys"]
        return keys


@pytest.fixture(scope="module")
def tenants(few_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    made = {name: make_key(name, "api,admin") for name in NAMES}
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("".join(f"{line} {LIMITS[name]}\n" for name, (_, line) in made.items()))
    flags = ("--model", str(few_layers), "--api-keys-file", str(file), "--log-level", "error")
    more = ("--workers", "2", "--torch.max-seq-len", "2048", "--limits.client-read-timeout", "1")
    with serve(*flags, *more) as server:
        yield Tenants(server, {name: key for name, (key, _) in made.items()})


def test_no_key_can_tell_what_another_has_asked(tenants: Tenants) -> None:
    prompt = " ".join(f"word {number}" for number in range(100))

    def cached(name: str) -> int:
        body: dict[str, object] = {"prompt": prompt, "max_tokens": 1}
        usage = tenants.ask(name, body).json()["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert cached("alice") == 0
    assert cached("bob") == 0
    assert cached("alice") > 100
    assert cached("bob") > 100
    used = tenants.usage()
    assert used["alice"]["cached_tokens"] == used["bob"]["cached_tokens"] > 100


def test_limits_for_a_minute_hold_for_all_workers(tenants: Tenants) -> None:
    body: dict[str, object] = {"prompt": [1, 2, 3], "max_tokens": 1}
    answers = [tenants.ask("carol", body) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    remaining = [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answers]
    assert remaining[0] == 4
    assert int(answers[5].headers["retry-after"]) <= 12
    assert int(answers[5].headers["x-ratelimit-remaining-tokens"]) <= 100_000
    used = tenants.usage()["carol"]
    assert (used["requests"], used["rejected"], used["prompt_tokens"]) == (5, 1, 15)


def test_a_stream_that_is_not_read_gives_its_place_back(tenants: Tenants) -> None:
    body = {"prompt": "x", "max_tokens": 2000, "ignore_eos": True, "stream": True, "n": 16, "logprobs": 5}
    content = json.dumps(body)
    url = httpx.URL(tenants.server.url)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((url.host, url.port))
        head = f"POST {TEXT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenants.keys['alice']}\r\n"
        more = f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n{content}"
        deaf.sendall((head + more).encode())
        deaf.recv(100)
        short: dict[str, object] = {"prompt": "x", "max_tokens": 1}
        assert tenants.ask("alice", short).status_code == 429, "alice may have one request at a time"
        tenants.server.wait(lambda: tenants.ask("alice", short).status_code == 200, patience=60)
        headers = {"authorization": f"Bearer {tenants.keys['bob']}"}
        text = httpx.get(f"{tenants.server.url}/metrics", headers=headers, timeout=30).text
        assert 'trtllm_openai_cancelled_total{reason="client_gone"} 1.0' in text
        assert "trtllm_openai_requests_orphaned 0.0" in text
