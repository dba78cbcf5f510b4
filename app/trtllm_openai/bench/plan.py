"""The plan of a load test, shared by all of its processes, and the request bodies it generates."""

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
"""Range of random token ids: ordinary tokens in all common vocabularies."""
_COMMON = (
    "time year people way day man thing woman life child world school state family student group country "
    "problem hand part index case week company system program question work number night point home water "
    "room mother area money story fact month lot right study book eye job word business issue side kind head"
)
WORDS = _COMMON.split()

Endpoint = Literal["completions", "chat"]


class Target(msgspec.Struct, frozen=True):
    """The server under test."""

    host: str
    port: int
    tls: bool
    prefix: str
    """Path before `/completions`, e.g. /v1."""
    api_key: str | None = None


class Load(msgspec.Struct, frozen=True):
    """One load level: closed loop with `concurrency` requests, or open loop with `rate` per second."""

    requests: int
    concurrency: int | None = None
    rate: float | None = None

    def share(self, index: int, processes: int) -> Load:
        """The part of this load for process `index` of `processes`."""
        return Load(
            _share(self.requests, index, processes),
            None if self.concurrency is None else _share(self.concurrency, index, processes),
            None if self.rate is None else self.rate / processes,
        )

    @property
    def label(self) -> str:
        """Short name for tables and the progress bar."""
        return f"{self.concurrency}" if self.concurrency is not None else f"{self.rate:g}/s"


class Plan(msgspec.Struct, frozen=True):
    """A complete test, as sent to each process."""

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
    """Partial request bodies from a file, used in turn; empty for random prompts."""


class Record(msgspec.Struct, array_like=True):
    """Result of one request. Times in seconds; `began` is on the machine's monotonic clock.

    `gaps`: times between chunks with text, float64 values as bytes. `error`: kind of failure, or empty.
    """

    began: float
    ttft: float
    e2e: float
    input_tokens: int
    output_tokens: int
    gaps: bytes
    error: str = ""


def parse_target(url: str, api_key: str | None) -> Target:
    """Parse `url`; the default path is /v1. Raises `ConfigError`."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--url: {url!r} is not an http or https URL")
    tls = parts.scheme == "https"
    prefix = parts.path.rstrip("/") or "/v1"
    return Target(parts.hostname, parts.port or (443 if tls else 80), tls, prefix, api_key)


def read_prompts(path: Path, endpoint: Endpoint) -> list[dict[str, Any]]:
    """Read prompts: one text per line, or JSON lines with `prompt` or `messages` and optional other fields.

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
    return [_adapted(item, endpoint) for item in items]


def bodies(plan: Plan, seed: int) -> Iterator[bytes]:
    """Endless request bodies, deterministic for a seed."""
    chance = random.Random(seed)
    base = {
        "model": plan.model,
        "max_tokens": plan.output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **plan.extra,
    }
    index = chance.randrange(len(plan.prompts)) if plan.prompts else 0
    while True:
        if plan.prompts:
            own = plan.prompts[index % len(plan.prompts)]
            index += 1
        elif plan.endpoint == "chat":
            text = " ".join(chance.choices(WORDS, k=plan.input_tokens))
            own = {"messages": [{"role": "user", "content": text}]}
        else:
            own = {"prompt": [chance.randint(FIRST_ID, LAST_ID) for _ in range(plan.input_tokens)]}
        yield msgspec.json.encode({**base, **own})


def _share(total: int, index: int, processes: int) -> int:
    return total // processes + (index < total % processes)


def _adapted(item: dict[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    if endpoint == "chat" and "messages" not in item:
        rest = {key: value for key, value in item.items() if key != "prompt"}
        return {**rest, "messages": [{"role": "user", "content": item["prompt"]}]}
    if endpoint == "completions" and "prompt" not in item:
        raise ConfigError("--prompts: conversations need --endpoint chat")
    return item
