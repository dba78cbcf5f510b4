"""The log afterwards, and the addresses that the server's processes connected to."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.abuse.case import DATA, DOWNLOADS, LOGS, Case
from tests.abuse.target import CHAT, TEXT, Target

_NUMBERS = itertools.count()


def cases() -> Iterator[Case]:
    yield Case(LOGS, "prompts, schemas and bodies that are refused", _log, "200, 400, 401; not in the log")
    yield Case(DOWNLOADS, "names of models and files", _names, "404, 400; connected to itself alone")
    yield Case(DATA, "templates and code in every text", _code, "the text itself; 200, 400")


def _log(target: Target) -> str:
    word = f"sesame{next(_NUMBERS)}"
    bodies: list[Any] = [
        {"prompt": f"Say {word}.", "max_tokens": 4, "user": word},
        {"prompt": f"Say {word}.", "temperature": word},
        f'{{"prompt": "{word}'.encode(),
        {"prompt": "x", "guided_json": {"type": word}},
        {"prompt": "x", "guided_regex": f"{word}("},
        {"prompt": "x", word: word, "stop": [word, 1]},
    ]
    answers = dict.fromkeys(target.ask(TEXT, body).split()[0] for body in bodies)
    key = f"sk-{word}"
    head = f"POST {TEXT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n"
    answers |= dict.fromkeys(
        one.split()[0] for one in target.raw(f"{head}content-length: 0\r\n\r\n".encode())
    )
    target.server.wait(lambda: "401" in "".join(target.server.stderr), 10)
    time.sleep(0.1)
    log = "".join(target.server.stderr)
    found = [word, *target.keys.values()]
    return f"{', '.join(answers)}; {'' if any(one in log for one in found) else 'not '}in the log"


def _names(target: Target) -> str:
    names = ("gpt2", "https://example.com/model", "../../etc/passwd", "meta-llama/Llama-3.1-8B")
    answers = {target.ask(TEXT, {"prompt": "x", "model": name}).split()[0]: None for name in names}
    image = {"type": "image_url", "image_url": {"url": "http://example.com/a.png"}}
    answers[target.ask(CHAT, {"messages": [{"role": "user", "content": [image]}]}).split()[0]] = None
    return f"{', '.join(answers)}; {_connected(target.connections)}"


def _connected(file: Path) -> str:
    """Unix sockets, and addresses without a name that stay on this machine."""
    lines = file.read_text().splitlines() if file.exists() else []
    assert lines, "nothing was noted, not even the runner's socket"
    away = [line for line in lines if not line.startswith("socket.connect '") and "'127.0.0.1'" not in line]
    return f"connected to {away[0] if away else 'itself alone'}"


def _code(target: Target) -> str:
    text = "{{ 7 * 7 }}{% for x in ().__class__.__bases__ %}{{ x }}{% endfor %}${7*7} __import__('os')"
    messages = [{"role": "user", "content": text}]
    rendered = target.post(f"{CHAT}/render", {"messages": messages}).json()["prompt"]
    tool = {"type": "function", "function": {"name": "f", "description": text, "parameters": {}}}
    with_tool = target.post(f"{CHAT}/render", {"messages": messages, "tools": [tool]}).json()["prompt"]
    same = text in rendered and "49" not in rendered and "49" not in with_tool
    answers = {target.ask(CHAT, {"messages": messages, "max_tokens": 1}): None}
    answers[target.ask(CHAT, {"messages": messages, "chat_template": text}).split()[0]] = None
    return f"{'the text itself' if same else rendered}; {', '.join(answers)}"
