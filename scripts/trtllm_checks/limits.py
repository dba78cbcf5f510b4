"""A server with one place and a queue of two: what a full queue answers, priority, cancellation, deadlines.

And what it does when a rank dies.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx

from scripts.trtllm_checks.server import Server
from scripts.trtllm_checks.table import Row, expect, row, rows

QUEUE_SIZE = 2
QUEUE_TIMEOUT_S = 2
FLAGS = [
    *("--tensorrt-llm.max-batch-size", "1"),
    *("--tensorrt-llm.max-queue-size", str(QUEUE_SIZE)),
    *("--limits.queue-timeout", str(QUEUE_TIMEOUT_S)),
]
SLACK_S = 5.0
"""Seconds by which a busy machine may be late."""
NOTICED_S = 10.0
"""Seconds within which a dead rank is to be noticed."""
RELOAD_S = 1800.0
MEASURED_TOKENS = 20


class Place:
    """The engine's one place, taken by a stream of `tokens` tokens."""

    def __init__(self, server: Server, tokens: int) -> None:
        usage = {"include_usage": True, "continuous_usage_stats": True}
        self._stream = server.stream(max_tokens=tokens, ignore_eos=True, stream_options=usage)
        first = seen = next(self._stream)["usage"]["completion_tokens"]
        began = time.monotonic()
        while seen < first + MEASURED_TOKENS:  # a step of lookahead decoding brings several
            seen = next(self._stream)["usage"]["completion_tokens"]
        itl = (time.monotonic() - began) / (seen - first)
        self.left_s = itl * (tokens - seen)
        """Seconds that the rest of the stream would take."""

    def leave(self) -> None:
        """The client disconnects."""
        self._stream.close()


def check_limits(server: Server, tokens: int) -> list[Row]:
    """Rows of a server with `FLAGS`. `tokens`: as many as an answer can have."""

    @contextmanager
    def occupied() -> Iterator[Place]:
        place = Place(server, tokens)
        try:
            yield place
        finally:
            place.leave()

    def full() -> str:
        with ThreadPoolExecutor(QUEUE_SIZE) as threads, occupied():
            waiting = [threads.submit(server.post, max_tokens=1) for _ in range(QUEUE_SIZE)]
            time.sleep(0.5)
            refused = [server.post(max_tokens=1), server.post(max_tokens=1, stream=True)]
        for response in refused:
            seen = response.status_code, response.headers.get("retry-after")
            expect(seen[0] == 429 and seen[1], f"status and retry-after: {seen}")
            code = response.json()["error"]["code"]
            expect(code == "queue_full", f"the code is {code!r}")
        statuses = [one.result().status_code for one in waiting]
        expect(statuses == [200] * QUEUE_SIZE, f"those in the queue got {statuses}")
        return f"429, retry-after {refused[0].headers['retry-after']} s, streamed too"

    def queue_timeout() -> str:
        with occupied() as place:
            if place.left_s < 2 * QUEUE_TIMEOUT_S:
                return f"not shown: the longest answer takes only {place.left_s:.1f} s"
            began = time.monotonic()
            response = server.post(max_tokens=1)
            took = time.monotonic() - began
        seen = response.status_code, response.json().get("error", {}).get("code")
        expect(seen == (429, "queue_timeout"), f"status and code: {seen}")
        expect(took < QUEUE_TIMEOUT_S + SLACK_S, f"only after {took:.1f} s")
        return f"429 after {took:.1f} s in the queue"

    def priority() -> str:
        ends: dict[str, float] = {}

        def ask(name: str, value: float) -> None:
            server.complete(max_tokens=2, priority=value)
            ends[name] = time.monotonic()

        with ThreadPoolExecutor(2) as threads:
            with occupied():
                asked = [threads.submit(ask, "low", 0.1)]
                time.sleep(0.3)
                asked.append(threads.submit(ask, "high", 0.9))
                time.sleep(0.3)
            for one in asked:
                one.result()
        expect(ends["high"] < ends["low"], "what came first went first")
        return f"the later one, of higher priority, ended {ends['low'] - ends['high']:.3f} s before the other"

    def next_request(limit_s: float) -> float:
        """Seconds until it is answered."""
        began = time.monotonic()
        status = server.post(max_tokens=1).status_code
        took = time.monotonic() - began
        expect(status == 200 and took < limit_s, f"the next request got {status} after {took:.1f} s")
        return took

    def running_leaves() -> str:
        place = Place(server, tokens)
        place.leave()
        took = next_request(max(place.left_s / 2, 0.5))
        return f"the next request was answered after {took:.2f} s instead of {place.left_s:.1f} s"

    def queued_leaves() -> str:
        with occupied():
            try:
                server.http.post("/v1/completions", json={"prompt": "x", "max_tokens": tokens}, timeout=0.5)
            except httpx.ReadTimeout:
                pass
            else:
                return "not shown: the longest answer is too short"
        return f"the next request was answered after {next_request(SLACK_S):.2f} s"

    def deadline() -> str:
        began = time.monotonic()
        response = server.post(max_tokens=tokens, ignore_eos=True, timeout=0.5)
        took = time.monotonic() - began
        if response.status_code == 200:
            return f"not shown: the longest answer took only {took:.1f} s"
        seen = response.status_code, response.json()["error"]["code"]
        expect(seen == (504, "timeout"), f"status and code: {seen}")
        expect(took < SLACK_S, f"only after {took:.1f} s")
        return f"504 after {took:.1f} s, its place free {next_request(SLACK_S):.2f} s later"

    return rows(
        {
            "full queue": full,
            "queue timeout": queue_timeout,
            "priority": priority,
            "cancel: a running client leaves": running_leaves,
            "cancel: a queued client leaves": queued_leaves,
            "deadline": deadline,
        }
    )


def check_killed_rank(server: Server, title: str, tokens: int) -> Row:
    """Kill the last rank beside a stream, which ends with an error; then the engine is loaded again."""

    def check() -> str:
        ranks = server.ranks()
        expect(len(ranks) > 1, f"found the ranks {sorted(ranks)}: there should be several")
        restarts = server.metric("runner_restarts_total")
        stream = server.stream(max_tokens=tokens, ignore_eos=True)
        next(stream)
        os.kill(ranks[max(ranks)], signal.SIGKILL)
        began = time.monotonic()
        *_, last = stream
        took = time.monotonic() - began
        expect("error" in last, f"the stream ended with {last}")
        expect(took < NOTICED_S, f"noticed only after {took:.1f} s")
        server.wait("a new runner", lambda: server.metric("runner_restarts_total") > restarts, 60)
        loaded = server.wait("ready again", server.ready, RELOAD_S)
        expect(server.text(max_tokens=4), "no text from the new runner")
        return f"rank {max(ranks)}: noticed after {took:.1f} s, ready again {loaded:.1f} s later"

    return row(f"{title}: a killed rank", check)
