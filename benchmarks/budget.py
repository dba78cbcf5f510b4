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

RESPONSES, RENDER = "/v1/responses", "/v1/chat/completions/render"
TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"
FORMAT = "response_format"
MESSAGE: dict[str, Any] = {"role": "user", "content": "x"}
WORDS = "word " * 200_000
PING = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Case:
    """A request that asks for much work. `body` makes it.

    `param`: what the refusal names, empty if it names nothing; None if the request is accepted.
    """

    name: str
    path: str
    body: Callable[[], dict[str, Any]]
    param: str | None

    def raw(self) -> bytes:
        """The body as JSON without spaces."""
        return json.dumps(self.body(), separators=(",", ":")).encode()


def cases() -> list[Case]:
    """Requests of about 1 MB, unless the name says otherwise: beyond the limits, and just within them."""
    return [*_prompts(), *_messages(), *_stops(), *_tools(), *_guides(), *_others()]


def _text(**fields: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"prompt": "x", "max_tokens": 1, **fields}


def _chat(**fields: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"messages": [MESSAGE], "max_tokens": 1, **fields}


def _prompts() -> Iterator[Case]:
    yield Case("a short chat", CHAT, _chat(), None)
    yield Case("prompt: 1,000,000 texts (4 MB)", TEXT, _text(prompt=["x"] * 1_000_000), "prompt")
    yield Case("prompt: 250,000 lists of ids", TEXT, _text(prompt=[[1]] * 250_000), "prompt")
    yield Case("prompt: 500,000 token ids", TEXT, _text(prompt=[1] * 500_000), "prompt")
    yield Case("prompt: 1,900 token ids, n 128", TEXT, _text(prompt=[1] * 1900, n=128), None)
    mixed = [*[1] * 500_000, "x"]
    yield Case(
        "prompt: 500,000 ids, the last a text",
        TEXT,
        _text(prompt=mixed, truncate_prompt_tokens=5),
        "prompt[500000]",
    )
    yield Case("prompt: a text of 1 MB", TEXT, _text(prompt=WORDS), "prompt")
    texts = [*["word " * 800] * 127, WORDS[:50_000]]  # the last one does not fit into the context
    yield Case("prompt: 128 texts of 4 kB", TEXT, _text(prompt=texts), "prompt")
    yield Case("tokenize: a text of 1 MB", TOKENIZE, lambda: {"prompt": WORDS}, None)
    yield Case(
        "tokenize: its tokens too", TOKENIZE, lambda: {"prompt": WORDS, "return_token_strs": True}, None
    )
    yield Case("detokenize: 500,000 ids", DETOKENIZE, lambda: {"tokens": [1] * 500_000}, None)


def _messages() -> Iterator[Case]:
    def messages(*given: Any, **fields: Any) -> Callable[[], dict[str, Any]]:
        return lambda: {"messages": list(given), **fields}

    yield Case("messages: one of 1 MB", CHAT, messages({**MESSAGE, "content": WORDS}), "messages")
    yield Case("messages: 200,000 (6 MB)", CHAT, messages(*[MESSAGE] * 200_000), "messages")
    yield Case("messages: 500,000 numbers", CHAT, messages(*[1] * 500_000), "messages")
    yield Case("messages: 4,096, rendered", RENDER, messages(*[MESSAGE] * 4096), None)
    parts = {"role": "user", "content": [{"type": "text", "text": "x"}] * 40_000}
    yield Case("messages: 40,000 parts", CHAT, messages(parts), "messages")
    items = {"input": [MESSAGE] * 4096, "max_output_tokens": 1, "truncation": "auto"}
    yield Case("responses: 4,096 items", RESPONSES, lambda: items, None)
    yield Case("responses: 30,000 items", RESPONSES, lambda: {"input": [MESSAGE] * 30_000}, "input")
    metadata = {f"x{i}": "y" for i in range(60_000)}
    yield Case(
        "responses: 60,000 of metadata", RESPONSES, lambda: {"input": 1, "metadata": metadata}, "input"
    )


def _stops() -> Iterator[Case]:
    yield Case("stop: a text of 1 MB, n 128", TEXT, _text(stop="ab" * 500_000, n=128), "stop")
    yield Case("stop: a text of 8 kB, n 128", TEXT, _text(stop="ab" * 4096, n=128), None)
    yield Case("stop: 500,000 numbers", TEXT, _text(stop=[1] * 500_000), "stop")
    yield Case("stop: 8,000,000 numbers (16 MB)", TEXT, _text(stop=[1] * 8_000_000), "stop")
    yield Case("stop_token_ids: 250,000 texts", TEXT, _text(stop_token_ids=["x"] * 250_000), "stop_token_ids")
    ids = [1] * 500_000
    yield Case("stop_token_ids: 500,000, n 128", TEXT, _text(stop_token_ids=ids, n=128), "stop_token_ids")
    wrong = {f"x{i}": 1 for i in range(80_000)}
    yield Case("logit_bias: 80,000 wrong", TEXT, _text(logit_bias=wrong), "logit_bias")
    most = {str(i): 1.5 for i in range(16_384)}
    yield Case("logit_bias: 16,384", TEXT, _text(logit_bias=most), None)
    bias = {str(i): 1.5 for i in range(49_152)}
    yield Case("logit_bias: 49,152, n 64", TEXT, _text(logit_bias=bias, n=64), "logit_bias")


def _tools() -> Iterator[Case]:
    def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
        return {"type": "function", "function": {"name": name, "parameters": parameters}}

    yield Case("tools: 500,000 numbers", CHAT, _chat(tools=[1] * 500_000), "tools")
    yield Case("tools: 10,000", CHAT, _chat(tools=[tool(f"x{i}", {}) for i in range(10_000)]), "tools")
    small = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(100)}}
    every = [tool(f"x{i}", small) for i in range(256)]
    yield Case(
        "tools: 256 of 100 properties, one required",
        CHAT,
        _chat(tools=every, tool_choice="required"),
        "tools",
    )
    wide = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(30_000)}}
    yield Case(
        "tools: 30,000 properties",
        CHAT,
        _chat(tools=[tool("x", wide)], tool_choice="required"),
        "tools[0].function.parameters",
    )


def _guides() -> Iterator[Case]:
    def schema(value: dict[str, Any]) -> Callable[[], dict[str, Any]]:
        return _chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": value}})

    enums = {"type": "object", "properties": {f"p{i}": {"enum": [i]} for i in range(6000)}}
    yield Case("schema: 6,000 enums (0.1 MB)", CHAT, schema(enums), f"{FORMAT}.json_schema.schema")
    empty = {"anyOf": [{}] * 30_000, "minLength": -1}
    yield Case("schema: 30,000 empty", CHAT, schema(empty), f"{FORMAT}.json_schema.schema.minLength")
    many: dict[str, Any] = {"anyOf": [{}] * 250_000}
    yield Case("guided_json: 250,000 empty", TEXT, _text(guided_json=many), "guided_json")
    yield Case("guided_json: the same as text", TEXT, _text(guided_json=json.dumps(many)), "guided_json")
    yield Case("guided_choice: 200,000", TEXT, _text(guided_choice=["x"] * 200_000), "guided_choice")
    grammar = 'root ::= "a"\n' * 77_000
    yield Case("guided_grammar: 1 MB", TEXT, _text(guided_grammar=grammar), "guided_grammar")
    structures = [{"begin": "<a>", "schema": {}, "end": "</a>"}] * 20_000
    tags = {"type": "structural_tag", "structures": structures, "triggers": ["<a"]}
    yield Case("structural tag: 20,000 structures", CHAT, _chat(response_format=tags), FORMAT)


def _others() -> Iterator[Case]:
    many = {f"x{i}": 1 for i in range(80_000)}
    yield Case("chat_template_kwargs: 80,000", CHAT, _chat(chat_template_kwargs=many), "chat_template_kwargs")
    yield Case("unknown fields: 80,000", CHAT, _chat(**many), "")


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a request, how long it took, and the longest stop of the event loop, both in seconds."""

    status: int
    param: str | None
    stop: float
    seconds: float


async def measure(port: int, path: str, raw: bytes) -> Found:
    """Post `raw` beside a probe of the server's event loop."""
    loop = asyncio.get_running_loop()
    _, probe = await loop.create_connection(Connection, "127.0.0.1", port)
    _, asking = await loop.create_connection(Connection, "127.0.0.1", port)
    for _ in range(20):
        await probe.exchange(PING)
    lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json"]
    head = "\r\n".join([*lines, f"content-length: {len(raw)}", "", ""]).encode()
    began = time.perf_counter()
    answer = asyncio.create_task(asking.exchange(head + raw))
    longest = 0.0
    while not answer.done():
        sent = time.perf_counter()
        await probe.exchange(PING)
        longest = max(longest, time.perf_counter() - sent)
    reader = answer.result()
    seconds = time.perf_counter() - began
    probe.close()
    asking.close()
    param = None if reader.status == 200 else json.loads(reader.body)["error"]["param"]
    return Found(reader.status, param, longest, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="measure only requests whose name contains this text")
    arguments = parser.parse_args()
    print("| request | MB | answer | longest stop, ms | allowed, ms |\n|---|---|---|---|---|")
    with ours() as server:
        for case in cases():
            if arguments.only not in case.name:
                continue
            raw = case.raw()
            found = [asyncio.run(measure(server.port, case.path, raw)) for _ in range(arguments.repeats)]
            stop = min(one.stop for one in found) * 1000
            size = len(raw) / 1e6
            answer = f"{found[0].status} {found[0].param or ''}".strip()
            print(
                f"| {case.name} | {size:.1f} | {answer} | {stop:.1f} | {10 * max(1.0, size):.0f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
