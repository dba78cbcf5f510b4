"""Measures HTTP-side cost with the synthetic engine: CPU per token and request, event loop pauses, memory.

    python benchmarks/frontend.py [--check | --record | --workers N]

The synthetic engine emits tokens at a fixed rate; the load client is a separate process. CPU time is that of
the HTTP worker process alone, all threads, from its process clock. The same run measures a floor: the same
frames at the same rate from a bare Starlette and a bare sse-starlette application. Values are the best of
several repeats, since other load on the machine can only increase them.

`--check` is the short form for continuous integration: it compares ratios to the floor, which do not depend
on the machine, with `frontend_budget.json`, and fails if they exceed it by 20 %. `--record` writes that file.

`--workers N` instead compares the throughput of one HTTP worker with that of N, each with the same number of
streams, runners and client processes per worker; it needs enough cores for all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "app"), str(ROOT)]

from benchmarks.frontend_load import Body, Load  # noqa: E402 - needs the path above

BUDGET = ROOT / "benchmarks" / "frontend_budget.json"
TOLERANCE = 1.2
ITL = 0.05
TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
STREAM: Body = {"prompt": [1000] * 20, "max_tokens": 4000, "stream": True}
SHORT: Body = {
    "messages": [{"role": "user", "content": "What is {number} in words?"}],
    "max_tokens": 1,
}
"""Each request differs, since repeated text is tokenized faster."""


class Server:
    """A started process and the port it listens on."""

    def __init__(self, process: subprocess.Popen[str] | subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def cpu(self) -> float:
        """CPU seconds of the process so far, all threads (clock_getcpuclockid(3))."""
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def memory(self) -> int:
        """Private memory of the process, in bytes."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return 1024 * sum(int(kib) for kib in re.findall(r"^Private_\w+:\s+(\d+)", text, re.MULTILINE))


@contextmanager
def ours(itl: float = ITL, ttft: float = 0.0, workers: int = 1) -> Iterator[Server]:
    """Start this server, with one runner per HTTP worker."""
    flags = ["--engine", "synthetic", "--log-level", "warning", "--port", "0", "--synthetic.ttft", str(ttft)]
    flags += ["--synthetic.itl", str(itl), "--synthetic.max-seq-len", "65536"]
    flags += ["--synthetic.max-batch-size", "8192", "--limits.max-waiting-requests", "100000"]
    flags += ["--limits.max-waiting-tokens", "100000000"]
    flags += ["--workers", str(workers), "--replicas", str(workers)]
    with started(
        [sys.executable, "-m", "trtllm_openai", "serve", *flags], r"is ready on http://\S+:(\d+)"
    ) as server:
        yield server


@contextmanager
def floor(kind: str, port: int = 8399) -> Iterator[Server]:
    """Start a bare application."""
    process = subprocess.Popen([sys.executable, str(ROOT / "benchmarks/frontend_floor.py"), kind, str(port)])
    try:
        time.sleep(1.5)
        yield Server(process, port)
    finally:
        process.kill()
        process.wait()


@contextmanager
def started(command: list[str], ready: str) -> Iterator[Server]:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "app")}  # this checkout, whatever is installed
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stdout is not None
        found = None
        for line in process.stdout:
            if found := re.search(ready, line):
                break
        if found is None:
            raise SystemExit("the server did not start")
        yield Server(process, int(found[1]))
    finally:
        process.terminate()
        process.wait(30)


def per_token(server: Server, streams: int, body: Body, seconds: float, repeats: int) -> float:
    """CPU microseconds of the process for each token it streams."""
    with Load(server.port) as load:
        load.hold(streams, TEXT, body)
        time.sleep(1.0)
        best = float("inf")
        for _ in range(repeats):
            began, before = server.cpu(), load.frames()
            time.sleep(seconds)
            spent, frames = server.cpu() - began, load.frames() - before
            best = min(best, spent / max(frames, 1) * 1e6)
        load.drop()
    return best


def per_request(server: Server, body: Body, requests: int, repeats: int) -> float:
    """CPU microseconds of the process for each request."""
    with Load(server.port) as load:
        load.ask(50, 4, "chat", body)
        best = float("inf")
        for _ in range(repeats):
            began = server.cpu()
            load.ask(requests, 4, "chat", body)
            best = min(best, (server.cpu() - began) / requests * 1e6)
    return best


def added_ttft(server: Server, rate: float, requests: int) -> list[float]:
    """Sorted TTFTs in seconds, with an engine whose own TTFT is zero."""
    with Load(server.port) as load:
        load.ask(50, 4, "chat", {**SHORT, "stream": True})
        return sorted(load.arrive(requests, rate, "chat", {**SHORT, "stream": True}))


def long_prompts() -> dict[str, tuple[str, Body]]:
    """Requests with prompts of 32k tokens, and a short one for comparison."""
    text = "The harbour was quiet in the early morning. " * 3640
    ask = {"max_tokens": 1, "stream": True}
    return {
        "short": (TEXT, {"prompt": "Hello", **ask}),
        "ids": (TEXT, {"prompt": [1000 + index % 20000 for index in range(32768)], **ask}),
        "text": (TEXT, {"prompt": text, **ask}),
        "chat": (CHAT, {"messages": [{"role": "user", "content": text}], **ask}),
    }


def pauses(server: Server, repeats: int) -> dict[str, float]:
    """Longest event loop pause in milliseconds for each of `long_prompts`."""
    best = {}
    with Load(server.port) as load:
        for name, (path, body) in long_prompts().items():
            load.pause(path, body)
            best[name] = statistics.median(load.pause(path, body) for _ in range(repeats)) * 1000
    return best


def most_tokens(streams: int, workers: int = 1) -> tuple[float, float]:
    """Maximum throughput of the HTTP workers in tokens/s, and the engine's rate at that point.

    `streams`: per worker.
    """
    held, missed = (0.0, 0.0), 0
    for itl in (0.01, 0.008, 0.006, 0.005, 0.004, 0.0033, 0.0027, 0.0022, 0.0018):
        pace = streams * workers / itl
        with ours(itl, workers=workers) as server, ExitStack() as stack:
            loads = [stack.enter_context(Load(server.port)) for _ in range(workers)]
            for load in loads:
                load.hold(streams, TEXT, {**STREAM, "max_tokens": 50000})
            time.sleep(0.5)
            before, began = sum(load.frames() for load in loads), time.monotonic()
            time.sleep(3.0)
            rate = (sum(load.frames() for load in loads) - before) / (time.monotonic() - began)
        if rate > held[0]:
            held = rate, pace
        missed += rate < 0.9 * pace
        if missed == 2:  # a single miss may be noise
            break
    return held


def memory_per_stream(streams: int) -> float:
    """KiB of private worker memory per open, mostly idle stream."""
    with ours(itl=1000.0) as server, Load(server.port) as load:
        load.hold(200, TEXT, STREAM)
        before = server.memory()
        load.hold(streams, TEXT, STREAM)
        time.sleep(1.0)
        used = server.memory() - before
        load.drop()
    return used / streams / 1024


def ratios(repeats: int) -> dict[str, float]:
    """The short form: CPU time relative to the bare sse-starlette application."""
    body = {**STREAM, "itl": ITL}
    with floor("sse-starlette") as server:
        bare = per_token(server, 256, body, 1.5, repeats)
    with ours() as server:
        mine = per_token(server, 256, STREAM, 1.5, repeats)
        token = per_request(server, {**SHORT, "stream": True}, 300, repeats)
    return {"token": mine / bare, "request": token / bare}


def check(record: bool) -> int:
    """Compare with the budget; returns 1 if it is exceeded in three tries."""
    found = ratios(5)
    if record:
        BUDGET.write_text(
            json.dumps({name: round(value, 2) for name, value in found.items()}, indent=2) + "\n"
        )
        return 0
    budget = json.loads(BUDGET.read_text())
    for _ in range(2):
        if any(found[name] > budget[name] * TOLERANCE for name in budget):
            again = ratios(8)  # the machine may have been busy
            found = {name: min(found[name], again[name]) for name in found}
    print("CPU time, in units of a token from bare sse-starlette:")
    failed = False
    for name, allowed in budget.items():
        over = found[name] > allowed * TOLERANCE
        failed |= over
        print(f"  {name:8} {found[name]:7.2f}  budget {allowed:.2f} + 20 %  {'BROKEN' if over else 'held'}")
    return int(failed)


def report() -> None:
    """The long form: one table."""
    rows: list[tuple[str, str, str]] = []

    def row(what: str, value: str, target: str = "") -> None:
        rows.append((what, value, target))
        print(f"{what}: {value}", file=sys.stderr, flush=True)

    body = {**STREAM, "itl": ITL}
    bare = {}
    for kind in ("starlette", "sse-starlette"):
        with floor(kind) as server:
            bare[kind] = per_token(server, 256, body, 2.0, 4)
        row(f"floor: bare {kind}, us/token at 256 streams", f"{bare[kind]:.1f}")
    with ours() as server:
        cost = {streams: per_token(server, streams, STREAM, 2.0, 4) for streams in (64, 256, 1024)}
        for streams, value in cost.items():
            row(f"us/token at {streams} streams", f"{value:.1f}", "15" if streams == 256 else "")
        row("over bare sse-starlette, 256 streams", f"{cost[256] / bare['sse-starlette']:.2f}", "1.6")
        row("1024 streams over 64", f"{cost[1024] / cost[64]:.2f}", "1.2")
        stream = per_request(server, {**SHORT, "stream": True}, 500, 4)
        row("us/chat request, streamed, besides its token", f"{stream - cost[64]:.0f}", "250")
        whole = per_request(server, {**SHORT, "stream": False}, 500, 4)
        row("us/chat request, whole, besides its token", f"{whole - cost[64]:.0f}", "250")
        times = added_ttft(server, 200, 2000)
        for percent in (50, 99):
            value = times[len(times) * percent // 100] * 1000
            row(f"added TTFT p{percent} at 200 req/s, ms", f"{value:.1f}", "5" if percent == 99 else "")
        paused = pauses(server, 7)
        for kind in ("ids", "text", "chat"):
            row(
                f"32k-token prompt ({kind}) adds to the longest pause, ms",
                f"{paused[kind] - paused['short']:.1f}",
                "8",
            )
    row("KiB/stream, 5000 silent streams", f"{memory_per_stream(5000):.1f}", "40")
    held, pace = most_tokens(256)
    row("tok/s one worker passes on, 256 streams", f"{held:.0f} of {pace:.0f} made")
    _print(rows)


def scaling(workers: int) -> None:
    """Compare the throughput of several workers with that of one, twice, alternating."""
    rows = []
    for _ in range(2):
        one, many = most_tokens(256)[0], most_tokens(256, workers)[0]
        rows.append((f"tok/s, 1 and {workers} workers: {one:.0f}, {many:.0f}", f"{many / one:.2f} x", ""))
    _print(rows)


def _print(rows: list[tuple[str, str, str]]) -> None:
    print(f"\n{os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    print("| what | measured | at most |\n|---|---|---|")
    for cells in rows:
        print("| " + " | ".join(cells) + " |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare the ratios with the budget")
    parser.add_argument("--record", action="store_true", help="write the budget")
    parser.add_argument("--workers", type=int, metavar="N", help="compare N HTTP workers with one")
    arguments = parser.parse_args()
    if arguments.workers:
        scaling(arguments.workers)
        return 0
    if arguments.check or arguments.record:
        return check(arguments.record)
    report()
    return 0


if __name__ == "__main__":
    sys.exit(main())
