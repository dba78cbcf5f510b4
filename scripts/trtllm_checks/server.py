"""A server under test: started on the engine, asked over HTTP, its ranks found in /proc."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from scripts.trtllm_checks.table import Row, expect, same
from trtllm_openai.processes.mpi import RANK_VARIABLES

APP = Path(__file__).parents[2] / "app"
STARTUP_S = 1800.0
END_S = 60.0
TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
PROMPT = "대한민국의 수도는"


class Server:
    """Requests to a server that is ready, until the block ends. Durations are seconds."""

    def __init__(self, url: str, pid: int) -> None:
        self.pid = pid
        self.http = httpx.Client(base_url=url, timeout=300)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.http.close()

    def models(self) -> dict[str, str | None]:
        """Each model's id, and the one that it is an adapter of."""
        cards = self.http.get("/v1/models").raise_for_status().json()["data"]
        return {card["id"]: card.get("parent") for card in cards}

    def same_text(self, **body: Any) -> str:
        """The text of a completion, streamed and whole. Raises `DifferenceError` where they differ."""
        streamed = "".join(chunk["choices"][0]["text"] for chunk in self.stream(**body))
        return same(streamed, self.text(**body))

    def post(self, path: str = TEXT, **body: Any) -> httpx.Response:
        """One request; a completion of `PROMPT` unless told otherwise."""
        base: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 32} if path == TEXT else {"max_tokens": 32}
        return self.http.post(path, json={**base, **body})

    def complete(self, **body: Any) -> dict[str, Any]:
        """The whole answer to a completion."""
        answer: dict[str, Any] = self.post(**body).raise_for_status().json()
        return answer

    def text(self, **body: Any) -> str:
        """The text of a completion."""
        return str(self.complete(**body)["choices"][0]["text"])

    def stream(self, **body: Any) -> Generator[dict[str, Any], None, None]:
        """The chunks of a streamed completion, as they come; closing the iterator closes the connection."""
        request = {"prompt": PROMPT, "max_tokens": 32, **body, "stream": True}
        with self.http.stream("POST", TEXT, json=request) as response:
            if not response.is_success:
                response.read()
                response.raise_for_status()
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line[6:])

    def metric(self, name: str) -> float:
        """A gauge or counter, of all its labels together."""
        found = re.findall(
            rf"^trtllm_openai_{name}(?:{{.*}})? (\S+)$", self.http.get("/metrics").text, re.MULTILINE
        )
        return sum(map(float, found))

    def wait(self, what: str, condition: Callable[[], bool], patience_s: float) -> float:
        """Seconds until `condition` holds. Raises `DifferenceError` after `patience_s`."""
        started = time.monotonic()
        while not condition():
            expect(time.monotonic() - started < patience_s, f"{what}: not within {patience_s:g} s")
            time.sleep(0.05)
        return time.monotonic() - started

    def ready(self) -> bool:
        """Whether it takes requests."""
        return self.http.get("/health/ready").status_code == 200

    def ranks(self) -> dict[int, int]:
        """Process ids of the ranks on this machine, by their number."""
        found: dict[int, int] = {}
        for pid in sorted(descendants(self.pid)):
            variables = environment(pid)
            number = next((variables[name] for name in RANK_VARIABLES if name in variables), None)
            if number is not None:
                found.setdefault(int(number), pid)
        return found


@contextmanager
def started(
    engine: str, tokenizer: str, flags: list[str], title: str, table: list[Row]
) -> Iterator[Server | None]:
    """A server, or None if it does not start; adds rows on its start and its end to `table`.

    What it prints goes to standard error.
    """
    command = [sys.executable, "-m", "trtllm_openai", "serve", "--engine", "tensorrt_llm", "--model", engine]
    command += ["--tokenizer", tokenizer, "--port", "0", "--log-level", "warning", *flags]
    path = os.pathsep.join(filter(None, [str(APP), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, env={**os.environ, "PYTHONPATH": path})
        try:
            began = time.monotonic()
            url = None
            while url is None and process.poll() is None and time.monotonic() - began < STARTUP_S:
                time.sleep(0.1)
                out.seek(0)
                url = re.search(r"is ready on (http://\S+)", out.read())
            table.append(Row(f"{title}: loads", url is not None, f"after {time.monotonic() - began:.0f} s"))
            if url is None:
                yield None
            else:
                with Server(url[1], process.pid) as server:
                    yield server
        finally:
            process.terminate()
            try:
                status = process.wait(END_S)
                table.append(Row(f"{title}: ends", status == 0, f"with status {status}"))
            except subprocess.TimeoutExpired:
                process.kill()
                table.append(Row(f"{title}: ends", False, f"not within {END_S:g} s"))


def descendants(pid: int) -> Iterator[int]:
    """Living processes beneath `pid`."""
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = thread.read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            yield child
            yield from descendants(child)


def environment(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty if it cannot be read."""
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
