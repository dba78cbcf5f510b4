"""Attempts of one key to learn of another, or to take from it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.abuse.case import BOUNDS, ISOLATION, KEYS, Case
from tests.abuse.target import SHORT, TEXT, Target, said

FLOOD = 300
ASKED = 30
"""Requests of the polite key, one after the other."""
LEAST_S = 1.0
"""Below this, times are those of a busy machine and not of the queue."""


def cases() -> Iterator[Case]:
    """Keys and what is theirs."""
    yield Case(ISOLATION, "a prefix that another key has cached", _cached, "0, 0, then most")
    yield Case(KEYS, "no key, a wrong one, one of 50 kB", _without_key, "401 invalid_api_key")
    yield Case(KEYS, "another key's stored response", _stored, "200, for others 404")
    yield Case(BOUNDS, f"{FLOOD} requests of one key", _flood, "200; TTFT within bounds", short=False)
    yield Case(BOUNDS, "a stream that is not read", _unread, "429, then 200", short=False)


def _cached(target: Target) -> str:
    """Cached tokens of the same prompt: of one key, of another, of the first again."""
    prompt = " ".join(f"{time.monotonic_ns()} {number}" for number in range(40))

    def tokens(key: str) -> tuple[int, int]:
        usage = target.post(TEXT, {"prompt": prompt, "max_tokens": 1}, key).json()["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]

    (first, _), (stranger, _), (again, whole) = tokens("other"), tokens("mallory"), tokens("other")
    return f"{first}, {stranger}, then {'most' if again > whole / 2 else again}"


def _without_key(target: Target) -> str:
    keys = {"none": "", "wrong": "sk-" + "a" * 40, "long": "a" * 50_000, "odd": "\u00e4 \t"}
    answers = set()
    for key in keys.values():
        lines = f"POST {TEXT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n"
        answers |= set(target.raw(f"{lines}content-length: 2\r\n\r\n{{}}".encode("latin-1")))
    return ", ".join(sorted(answers))


def _stored(target: Target) -> str:
    made = target.post("/v1/responses", {"input": "x", "max_output_tokens": 2}, "other")
    name = made.json()["id"]
    body = {"input": "x", "previous_response_id": name, "max_output_tokens": 2}
    answers = {target.ask("/v1/responses", body).split()[0]}
    answers.add(target.ask(f"/v1/responses/{name}/cancel", {}).split()[0])
    return f"{made.status_code}, for others {', '.join(sorted(answers))}"


def _flood(target: Target) -> str:
    """TTFT of a polite key alone and beside the flood of another; the largest of few is held for a p99."""
    body = {**SHORT, "max_tokens": 1}

    def longest() -> float:
        waits = []
        for _ in range(ASKED):
            began = time.perf_counter()
            assert target.post(TEXT, body, "other").status_code == 200
            waits.append(time.perf_counter() - began)
        return max(waits)

    alone = longest()
    flooding = {"prompt": "x", "max_tokens": 24, "ignore_eos": True}
    with ThreadPoolExecutor(FLOOD) as threads:
        floods = [threads.submit(target.ask, TEXT, flooding) for _ in range(FLOOD)]
        target.server.wait(lambda: target.server.metric("requests_waiting") > FLOOD / 3, 30)
        beside = longest()
        assert not all(one.done() for one in floods), "the flood was over too early"
        answers = dict.fromkeys(one.result() for one in floods)
    assert beside <= max(2 * alone, LEAST_S), f"TTFT {beside:.2f} s, alone {alone:.2f} s"
    return f"{', '.join(answers)}; TTFT within bounds"


def _unread(target: Target) -> str:
    """Of a key that may have one request: its answer beside a stream that it does not read, and later."""
    body = {"prompt": "x", "max_tokens": 2000, "ignore_eos": True, "stream": True, "n": 8, "logprobs": 5}
    content = json.dumps(body).encode()

    def short() -> str:
        response = target.post(TEXT, {**SHORT, "max_tokens": 1}, "single")
        return said(response.status_code, b"")

    with target.connect(receive_buffer=4096) as deaf:
        deaf.sendall(target.head(TEXT, f"content-length: {len(content)}", "single") + content)
        deaf.recv(100)
        at_once = short()
        target.server.wait(lambda: short() == "200", 60)
    return f"{at_once}, then 200"
