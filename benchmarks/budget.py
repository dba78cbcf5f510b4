"""Measures how long one request stops the event loop, for requests that ask for as much work as they can.

    python benchmarks/budget.py [--repeats N] [--only TEXT]

Each request of `cases` is posted to a server with the synthetic engine while a probe on another connection
asks for /health/live without pause. The longest wait of the probe is the longest stop of the loop, with the
time that one probe takes; the smallest of the repeats counts, since other load on the machine can only
increase it. The target is 10 ms for a body of up to 1 MB, and 10 ms for each MB above.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "app"), str(ROOT)]

from benchmarks.frontend import CHAT, TEXT, ours  # noqa: E402 - needs the path above
from trtllm_openai.bench.client import Connection  # noqa: E402

RESPONSES, TOKENIZE, RENDER = "/v1/responses", "/tokenize", "/v1/chat/completions/render"
ALLOWED_MS = 10.0
PING = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Case:
    """A request with much work in it. `body` makes the JSON. `param`: what a refusal names; None if accepted."""

    name: str
    path: str
    body: Callable[[], dict[str, Any]]
    param: str | None


def cases() -> Iterator[Case]:
    """Bodies of about 1 MB, unless the name says otherwise."""
    message = {"role": "user", "content": "x"}

    def chat(**fields: Any) -> Callable[[], dict[str, Any]]:
        return lambda: {"messages": [message], "max_tokens": 1, **fields}

    def text(**fields: Any) -> Callable[[], dict[str, Any]]:
        return lambda: {"prompt": "x", "max_tokens": 1, **fields}

    def schema(value: dict[str, Any]) -> dict[str, Any]:
        return {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}

    yield Case("a short chat", CHAT, chat(), None)
    yield Case("prompt: 1,000,000 texts (4 MB)", TEXT, text(prompt=["x"] * 1_000_000), "prompt")
    yield Case("prompt: 330,000 lists of ids", TEXT, text(prompt=[[1]] * 250_000), "prompt")
    yield Case("prompt: 500,000 token ids", TEXT, text(prompt=[1] * 500_000), "prompt")
    yield Case("prompt: 500,000 ids, the last a text", TEXT, text(prompt=[*[1] * 500_000, "x"]), "prompt")
    yield Case("prompt: a text of 1 MB", TEXT, text(prompt="word " * 200_000), "prompt")
    yield Case(
        "messages: 1 MB of text",
        CHAT,
        lambda: {"messages": [{**message, "content": "word " * 200_000}]},
        "messages",
    )
    yield Case("messages: 200,000 (7 MB)", CHAT, lambda: {"messages": [message] * 200_000}, "messages")
    yield Case("messages: 500,000 numbers", CHAT, lambda: {"messages": [1] * 500_000}, "messages")
    yield Case(
        "messages: one of 40,000 parts",
        CHAT,
        lambda: {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 40_000}]},
        "messages[0].content",
    )
    yield Case("render: 20,000 messages", RENDER, lambda: {"messages": [message] * 20_000}, "messages")
    yield Case("stop: a text of 1 MB, n 128", TEXT, text(stop="ab" * 500_000, n=128), "stop")
    yield Case("stop: 500,000 numbers", TEXT, text(stop=[1] * 500_000), "stop[0]")
    yield Case("stop: 8,000,000 numbers (16 MB)", TEXT, text(stop=[1] * 8_000_000), "stop[0]")
    yield Case("stop: 300,000 texts", TEXT, text(stop=["x"] * 250_000), "stop")
    yield Case(
        "stop_token_ids: 500,000 texts", TEXT, text(stop_token_ids=["x"] * 250_000), "stop_token_ids[0]"
    )
    yield Case(
        "stop_token_ids: 500,000 ids", TEXT, text(stop_token_ids=[1] * 500_000, n=128), "stop_token_ids"
    )
    yield Case("tools: 500,000 numbers", CHAT, chat(tools=[1] * 500_000), "tools")
    tool = {"type": "function", "function": {"name": "x", "parameters": {"type": "object"}}}
    yield Case(
        "tools: 10,000",
        CHAT,
        chat(tools=[{**tool, "function": {**tool["function"], "name": f"x{i}"}} for i in range(10_000)]),
        "tools",
    )
    wide = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(30_000)}}
    yield Case(
        "tools: a schema of 30,000 properties, required",
        CHAT,
        chat(
            tools=[{"type": "function", "function": {"name": "x", "parameters": wide}}],
            tool_choice="required",
        ),
        "tools",
    )
    yield Case(
        "logit_bias: 60,000 wrong",
        TEXT,
        text(logit_bias={f"x{i}": 1 for i in range(80_000)}),
        "logit_bias.x0",
    )
    yield Case(
        "logit_bias: 49,152 entries, n 64",
        TEXT,
        text(logit_bias={str(i): 1.5 for i in range(49_152)}, n=64),
        "logit_bias",
    )
    enums = {"type": "object", "properties": {f"p{i}": {"enum": [i]} for i in range(6000)}}
    yield Case(
        "schema: 6000 enums (130 kB)",
        CHAT,
        chat(response_format=schema(enums)),
        "response_format.json_schema.schema",
    )
    yield Case(
        "schema: 30,000 empty",
        CHAT,
        chat(response_format=schema({"anyOf": [{}] * 30_000})),
        "response_format.json_schema.schema",
    )
    yield Case("guided_json: 250,000 empty", TEXT, text(guided_json={"anyOf": [{}] * 250_000}), "guided_json")
    yield Case(
        "guided_json: 1 MB as text",
        TEXT,
        text(guided_json=json.dumps({"anyOf": [{}] * 250_000})),
        "guided_json",
    )
    yield Case("guided_choice: 200,000", TEXT, text(guided_choice=["x"] * 200_000), "guided_choice")
    yield Case("guided_grammar: 1 MB", TEXT, text(guided_grammar='root ::= "a"\n' * 77_000), "guided_grammar")
    tags = {
        "type": "structural_tag",
        "structures": [{"begin": "<a>", "schema": {}, "end": "</a>"}] * 20_000,
        "triggers": ["<a"],
    }
    yield Case("structural tag: 20,000 structures", CHAT, chat(response_format=tags), "response_format")
    yield Case(
        "chat_template_kwargs: 1 MB",
        CHAT,
        chat(chat_template_kwargs={f"x{i}": 1 for i in range(80_000)}),
        "chat_template_kwargs",
    )
    yield Case(
        "unknown fields: 80,000",
        CHAT,
        lambda: {"messages": [message], "max_tokens": 1, **{f"x{i}": 1 for i in range(80_000)}},
        "",
    )
    yield Case(
        "responses input: 30,000 items",
        RESPONSES,
        lambda: {"input": [{"role": "user", "content": "x"}] * 30_000},
        "input",
    )
    yield Case(
        "responses: 60,000 of metadata",
        RESPONSES,
        lambda: {"input": "x", "metadata": {f"x{i}": "y" for i in range(60_000)}},
        "metadata",
    )
    yield Case("tokenize: a text of 1 MB", TOKENIZE, lambda: {"prompt": "word " * 200_000}, None)
    yield Case(
        "tokenize with texts: 1 MB",
        TOKENIZE,
        lambda: {"prompt": "word " * 200_000, "return_token_strs": True},
        None,
    )
    yield Case("detokenize: 500,000 ids", "/detokenize", lambda: {"tokens": [1] * 500_000}, None)


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a case, the longest stop of the loop in seconds, and the CPU time of its thread."""

    status: int
    param: str | None
    stop: float
    cpu: float
    seconds: float
    message: str


async def measure(port: int, pid: int, path: str, raw: bytes) -> Found:
    """Post `raw` beside a probe of the server's event loop, whose thread is the first of process `pid`."""
    loop = asyncio.get_running_loop()
    _, probe = await loop.create_connection(Connection, "127.0.0.1", port)
    _, asking = await loop.create_connection(Connection, "127.0.0.1", port)
    for _ in range(20):
        await probe.exchange(PING)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    cpu, began = _cpu(pid), time.perf_counter()
    answer = asyncio.create_task(asking.exchange(head.encode() + raw))
    longest = 0.0
    while not answer.done():
        sent = time.perf_counter()
        await probe.exchange(PING)
        longest = max(longest, time.perf_counter() - sent)
    reader = answer.result()
    seconds, spent = time.perf_counter() - began, _cpu(pid) - cpu
    probe.close()
    asking.close()
    error = json.loads(reader.body)["error"] if reader.status != 200 else {"param": None, "message": ""}
    return Found(reader.status, error["param"], longest, spent, seconds, error["message"])


def _cpu(pid: int) -> float:
    """CPU seconds of the process's first thread."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="cases with this text in their name")
    arguments = parser.parse_args()
    print(
        "| request | body, MB | answer | longest stop, ms | loop CPU, ms | seconds |\n|---|---|---|---|---|---|"
    )
    with ours() as server:
        for case in cases():
            if arguments.only not in case.name:
                continue
            raw = json.dumps(case.body()).encode()
            try:
                found = [
                    asyncio.run(measure(server.port, server.process.pid, case.path, raw))
                    for _ in range(arguments.repeats)
                ]
            except OSError as error:
                print(case.name, error)
                continue
            best = min(one.stop for one in found) * 1000
            cpu = min(one.cpu for one in found) * 1000
            answer = f"{found[0].status} {found[0].param or ''}".strip()
            over = "" if best <= ALLOWED_MS * max(1.0, len(raw) / 1e6) else " **over**"
            print(
                f"| {case.name} | {len(raw) / 1e6:.1f} | {answer} | {best:.1f}{over} | {cpu:.1f} | {found[0].seconds:.2f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
