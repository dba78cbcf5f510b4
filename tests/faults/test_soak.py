"""Mixed traffic for a while: every answer exact, nothing left behind, no process grown.

`make soak` runs it for 10 minutes (SOAK_SECONDS); `make test-all` for some seconds.
"""

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.conftest import CHAT, TEXT, Start, Victim
from trtllm_openai.engine_host.loop import IDLE_WAIT
from trtllm_openai.engines.torch.linear import padded_rows

SECONDS = float(os.environ.get("SOAK_SECONDS", "3"))
WARM_UP = max(3.0, SECONDS / 10)
CLIENTS = 8
MOST_ROWS = 900  # of a step, with these prompts
ALLOWED_SHARE, ALLOWED_BYTES = 0.01, 5 * 2**20

PROMPTS = ["Once upon a time", "대한민국의 수도는", "The 🎉 is", "def main():\n", "word " * 150]
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
Say = Callable[[str], None]


def body(index: int) -> dict[str, Any]:
    """A request whose answer is always the same."""
    return {"prompt": PROMPTS[index % len(PROMPTS)], "max_tokens": 8 + 5 * index, "seed": index, "top_p": 0.9}


class Traffic:
    """Clients that ask at random until told to stop; `faults` are answers that were not as they should be."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.done: Counter[str] = Counter()
        self.faults: list[str] = []
        self._stop = threading.Event()
        with httpx.Client(base_url=url, timeout=120) as http:
            self._expected = [self._whole(http, index) for index in range(8)]
        self._threads = [threading.Thread(target=self._client, args=(i,)) for i in range(CLIENTS)]

    def run(self, seconds: float) -> None:
        for thread in self._threads:
            thread.start()
        time.sleep(seconds)
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a client hangs"

    def _whole(self, http: httpx.Client, index: int) -> tuple[str, dict[str, Any]]:
        answer = http.post(TEXT, json=body(index)).raise_for_status().json()
        usage = {name: answer["usage"][name] for name in ("prompt_tokens", "completion_tokens")}
        return answer["choices"][0]["text"], usage

    def _client(self, number: int) -> None:
        chance = random.Random(number)
        kinds = [self._ask, self._stream, self._leave, self._bad, self._late, self._chat]
        with httpx.Client(base_url=self.url, timeout=120) as http:
            while not self._stop.is_set():
                kind = chance.choice(kinds)
                try:
                    kind(http, chance)
                except Exception as error:  # whatever a client can see go wrong
                    self.faults.append(f"{kind.__name__}: {error!r}")
                self.done[kind.__name__.strip("_")] += 1

    def _check(self, index: int, got: tuple[str, dict[str, Any]]) -> None:
        if got != self._expected[index]:
            self.faults.append(f"request {index}: {got} instead of {self._expected[index]}")

    def _ask(self, http: httpx.Client, chance: random.Random) -> None:
        index = chance.randrange(8)
        self._check(index, self._whole(http, index))

    def _stream(self, http: httpx.Client, chance: random.Random) -> None:
        index = chance.randrange(8)
        text, ended = "", False
        usage: dict[str, Any] = {}
        with http.stream(
            "POST", TEXT, json={**body(index), "stream": True, "stream_options": {"include_usage": True}}
        ) as response:
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    ended = True
                elif line.startswith("data: "):
                    chunk = json.loads(line[6:])
                    text += "".join(choice["text"] for choice in chunk["choices"])
                    usage = chunk["usage"] or usage
        assert ended
        self._check(index, (text, {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}))

    def _leave(self, http: httpx.Client, chance: random.Random) -> None:
        ask = {"prompt": chance.choice(PROMPTS), "max_tokens": 400, "ignore_eos": True, "stream": True}
        with http.stream("POST", TEXT, json=ask) as response:
            lines = response.iter_lines()
            for _ in range(chance.randrange(6)):
                next(lines)

    def _bad(self, http: httpx.Client, chance: random.Random) -> None:
        bad: list[dict[str, Any]] = [
            {"prompt": "x", "temperature": -1},
            {"prompt": "x", "model": "none"},
            {"prompt": "word " * 5000},
            {"prompt": [10**9]},
            {"prompt": "x", "guided_regex": "("},
            {},
        ]
        response = http.post(TEXT, json=chance.choice(bad))
        assert response.status_code in (400, 404), response.text

    def _late(self, http: httpx.Client, chance: random.Random) -> None:
        response = http.post(
            TEXT,
            json={"prompt": "x", "max_tokens": 900, "ignore_eos": True, "timeout": chance.uniform(0.05, 0.3)},
        )
        assert response.status_code == 504, response.text

    def _chat(self, http: httpx.Client, chance: random.Random) -> None:
        ask: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 48}
        if chance.random() < 0.5:
            ask |= {"tools": [TOOL], "tool_choice": "required"}
        choice = http.post(CHAT, json=ask).raise_for_status().json()["choices"][0]
        assert choice["finish_reason"] in ("stop", "length", "tool_calls")


def visit_every_number_of_rows(victim: Victim) -> None:
    """What a runner keeps for good comes once: oneDNN's code for a number of rows (see `padded_rows`)."""

    def prompt(http: httpx.Client, rows: int) -> None:
        ids = random.Random(rows).choices(range(1000, 2000), k=rows)  # no prefix of another's
        http.post(TEXT, json={"prompt": ids, "max_tokens": 1}).raise_for_status()

    with httpx.Client(base_url=victim.url, timeout=120) as http, ThreadPoolExecutor() as together:
        for rows in sorted({padded_rows(n) for n in range(2, MOST_ROWS)}):
            list(together.map(lambda rows: prompt(http, rows), [rows] * len(victim.runners())))


def anonymous(victim: Victim) -> dict[str, int]:
    """RssAnon and swap of every process, in bytes: memory that is nobody else's."""
    found = {}
    for name, pid in [
        ("http", victim.server.process.pid),
        *((f"runner {pid}", pid) for pid in victim.runners()),
    ]:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        found[name] = sum(int(lines[key].split()[0]) * 1024 for key in ("RssAnon", "VmSwap"))
    return found


def at_rest(victim: Victim) -> dict[str, int]:
    """`anonymous` once idle runners have given freed memory back."""
    time.sleep(IDLE_WAIT + 0.5)
    return anonymous(victim)


@pytest.mark.slow
def test_soak(start: Start, outcome: Say) -> None:
    # A small KV cache: its pages become the process's own when they are first written.
    small = ["--replicas", "2", "--torch.max-batch-size", "6", "--torch.kv-cache-tokens", "2048"]
    with start(*small) as victim:
        visit_every_number_of_rows(victim)
        Traffic(victim.url).run(WARM_UP)
        victim.recovers(state := victim.state())
        before = at_rest(victim)
        traffic = Traffic(victim.url)
        traffic.run(SECONDS)
        victim.recovers(state)
        after = at_rest(victim)
        assert not traffic.faults, traffic.faults[:5]
        assert victim.server.metric("requests_orphaned") == 0
        assert victim.server.metric("runner_restarts_total") == 0
        grown = {name: after[name] - size for name, size in before.items()}
        for name, size in before.items():
            assert grown[name] <= size * ALLOWED_SHARE + ALLOWED_BYTES, (
                f"{name}: {size} + {grown[name]} bytes"
            )
        growth = ", ".join(f"{name.split()[0]} {size / 2**20:+.1f} MiB" for name, size in grown.items())
        outcome(f"{traffic.done.total()} requests in {SECONDS:g} s, none wrong; {growth}")
