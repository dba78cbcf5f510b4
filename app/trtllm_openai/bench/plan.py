"""What a load test sends: the settings of all of its processes, and the bodies of the requests."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from trtllm_openai.errors import ConfigError

FIRST_ID, LAST_ID = 1000, 29999
"""Random token ids come from here: ordinary tokens in every vocabulary of the last years."""
_COMMON = (
    "time year people way day man thing woman life child world school state family student group country "
    "problem hand part place case week company system program question work number night point home water "
    "room mother area money story fact month lot right study book eye job word business issue side kind head"
)
WORDS = _COMMON.split()

Endpoint = Literal["completions", "chat"]


class Target(msgspec.Struct, frozen=True):
    """Where requests go."""

    host: str
    port: int
    tls: bool
    prefix: str
    """What precedes `/completions` in the path, e.g. /v1."""
    api_key: str | None = None


class Load(msgspec.Struct, frozen=True):
    """One point of the load: `concurrency` requests at a time, or `rate` a second whatever comes back."""

    requests: int
    concurrency: int | None = None
    rate: float | None = None

    def share(self, index: int, processes: int) -> Load:
        """What one of several processes does of it."""
        return Load(
            _share(self.requests, index, processes),
            None if self.concurrency is None else _share(self.concurrency, index, processes),
            None if self.rate is None else self.rate / processes,
        )

    @property
    def label(self) -> str:
        """For tables and progress."""
        return f"{self.concurrency}" if self.concurrency is not None else f"{self.rate:g}/s"


class Plan(msgspec.Struct, frozen=True):
    """A whole test, as each of its processes gets it."""

    target: Target
    endpoint: Endpoint
    model: str
    loads: list[Load]
    input_tokens: int
    output_tokens: int
    seed: int
    warmup: int
    timeout: float
    extra: dict[str, Any]
    prompts: list[dict[str, Any]]
    """Read from a file: parts of bodies, used in turn; empty for random ones."""


class Record(msgspec.Struct, array_like=True):
    """What became of one request. Times in seconds; `began` by the monotonic clock of the machine.

    `gaps` are float64 times between pieces of text, as bytes. `error` is empty or the kind of failure.
    """

    began: float
    ttft: float
    e2e: float
    input_tokens: int
    output_tokens: int
    gaps: bytes
    error: str = ""


def parse_target(url: str, api_key: str | None) -> Target:
    """The server at `url`; a path other than /v1 is kept. Raises `ConfigError`."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--url: {url!r} is no http or https address")
    tls = parts.scheme == "https"
    prefix = parts.path.rstrip("/") or "/v1"
    return Target(parts.hostname, parts.port or (443 if tls else 80), tls, prefix, api_key)


def read_prompts(path: Path, endpoint: Endpoint) -> list[dict[str, Any]]:
    """Prompts of a file: a text a line, or JSON lines with `prompt`, `messages` and maybe other fields.

    Raises `ConfigError`.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if path.suffix == ".jsonl":
            items = [json.loads(line) for line in lines]
        else:
            items = [{"prompt": line} for line in lines]
    except (OSError, ValueError) as error:
        raise ConfigError(f"--prompts: {path} cannot be read: {error}") from None
    if not items or not all(
        isinstance(item, dict) and ("prompt" in item or "messages" in item) for item in items
    ):
        raise ConfigError(f"--prompts: every line of {path} must have a prompt or messages")
    return [_fitting(item, endpoint) for item in items]


def bodies(plan: Plan, seed: int) -> Iterator[bytes]:
    """Request bodies without end, the same ones for the same seed."""
    chance = random.Random(seed)
    base = {
        "model": plan.model,
        "max_tokens": plan.output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **plan.extra,
    }
    place = chance.randrange(len(plan.prompts)) if plan.prompts else 0
    while True:
        if plan.prompts:
            own = plan.prompts[place % len(plan.prompts)]
            place += 1
        elif plan.endpoint == "chat":
            text = " ".join(chance.choices(WORDS, k=plan.input_tokens))
            own = {"messages": [{"role": "user", "content": text}]}
        else:
            own = {"prompt": [chance.randint(FIRST_ID, LAST_ID) for _ in range(plan.input_tokens)]}
        yield msgspec.json.encode({**base, **own})


def _share(total: int, index: int, processes: int) -> int:
    return total // processes + (index < total % processes)


def _fitting(item: dict[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    if endpoint == "chat" and "messages" not in item:
        rest = {key: value for key, value in item.items() if key != "prompt"}
        return {**rest, "messages": [{"role": "user", "content": item["prompt"]}]}
    if endpoint == "completions" and "prompt" not in item:
        raise ConfigError("--prompts: conversations need --endpoint chat")
    return item
