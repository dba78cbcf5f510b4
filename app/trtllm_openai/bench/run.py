"""Coordinator of a load test: starts the client processes, shows progress and writes the result."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import msgspec

from trtllm_openai.bench import worker
from trtllm_openai.bench.client import Client
from trtllm_openai.bench.plan import Load, Plan, Record, Target
from trtllm_openai.bench.plot import page
from trtllm_openai.bench.report import table
from trtllm_openai.bench.stats import summarise
from trtllm_openai.errors import BadResponse, InvalidRequest


@dataclass(frozen=True, slots=True)
class Output:
    """Result files, and the SLO for goodput."""

    slo: dict[str, float]
    json_file: Path | None
    plot_file: Path | None


def default_processes(loads: list[Load]) -> int:
    """One per two cores, at most four, and not more than concurrent requests."""
    at_once = min((load.concurrency or 4 for load in loads), default=1)
    return max(1, min((os.cpu_count() or 2) // 2, 4, at_once))


def first_model(target: Target) -> str:
    """The first model that the server lists. Raises `InvalidRequest`."""

    async def ask() -> Any:
        client = Client(target, 30.0)
        try:
            async with asyncio.timeout(30):
                return await client.get("/models")
        finally:
            client.close()

    try:
        return str(asyncio.run(ask())["data"][0]["id"])
    except (OSError, TimeoutError, BadResponse, ValueError, KeyError, IndexError, TypeError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else f"{type(error).__name__}: {error}".rstrip(": ")
        raise InvalidRequest(
            f"The server at {target.host}:{target.port} cannot be asked for its models: {reason}. "
            "Is it running? --model skips this request."
        ) from None


def run_plan(plan: Plan, processes: int, output: Output) -> int:
    """Measure, print the table, write the files. Returns 1 when no request succeeded."""
    rows = []
    with _Team(plan, processes) as team:
        for load in plan.loads:
            rows.append(summarise(load, team.measure(load), output.slo))
            if sys.stderr.isatty():
                print(f"\r\x1b[2K{load.label}: {rows[-1]['output_tokens_per_s']:.0f} tok/s", file=sys.stderr)
    what = (
        f"{plan.model} on {plan.target.host}:{plan.target.port}, {plan.endpoint}, "
        f"{plan.output_tokens} tokens out, {processes} client process{'es' if processes > 1 else ''}"
    )
    print(f"{what}; times as p50 / p90 / p99\n\n{table(rows)}")
    if output.json_file is not None:
        settings = {"endpoint": plan.endpoint, "model": plan.model, "processes": processes, "slo": output.slo}
        settings |= {
            name: getattr(plan, name) for name in ("input_tokens", "output_tokens", "seed", "warmup")
        }
        output.json_file.write_text(json.dumps({"settings": settings, "loads": rows}, indent=2) + "\n")
    if output.plot_file is not None:
        output.plot_file.write_text(page(f"Load test of {plan.model}", what, rows), encoding="utf-8")
    return 0 if any(row["requests_per_s"] for row in rows) else 1


class _Team:
    """The client processes."""

    def __init__(self, plan: Plan, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        encoded = msgspec.msgpack.encode(plan)
        self._pipes: list[Pipe] = []
        self._processes = []
        for index in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=worker.run, args=(encoded, index, processes, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> _Team:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def measure(self, load: Load) -> list[Record]:
        """Run `load`: every process starts its share at the same moment."""
        for pipe in self._pipes:
            self._receive(pipe)  # ready
        for pipe in self._pipes:
            pipe.send_bytes(b"go")
        done = dict.fromkeys(self._pipes, 0)
        records: list[Record] = []
        running = list(self._pipes)
        began = time.monotonic()
        while running:
            told = wait(running, timeout=1.0)
            for pipe in [pipe for pipe in running if pipe in told]:
                message = self._receive(pipe)
                if message.isdigit():
                    done[pipe] = int(message)
                    continue
                mine = worker.decode_records(message)
                done[pipe] = len(mine)
                records += mine
                running.remove(pipe)
            _show(load, sum(done.values()), time.monotonic() - began)
        return records

    @staticmethod
    def _receive(pipe: Pipe) -> bytes:
        try:
            return pipe.recv_bytes()
        except EOFError:
            raise RuntimeError("a process of the load test ended") from None


def _show(load: Load, done: int, seconds: float) -> None:
    """The progress bar, on a terminal."""
    if not sys.stderr.isatty():
        return
    share = done / max(load.requests, 1)
    bar = "#" * round(24 * share)
    text = f"[{bar:.<24}] {share:4.0%}  load {load.label}: {done}/{load.requests} requests, {seconds:.0f} s"
    print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
