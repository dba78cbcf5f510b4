"""Servers whose engine is told what to say, to drive the loops of agents without a clever model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.e2e.conftest import RunningServer, serve

CONTEXT = 65536
"""Tokens; Claude Code begins with a third of it."""


def call(name: str, **arguments: object) -> str:
    """A call of a tool, as the demo model's tokenizer and format have it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@contextmanager
def scripted(directory: Path, model: str, *script: str) -> Iterator[RunningServer]:
    """A server that answers with these texts in the order of requests, and then from the first again."""
    settings = {
        "served_model_name": model,
        "synthetic": {"ttft": 0, "itl": 0, "max_seq_len": CONTEXT, "script": list(script)},
    }
    config = directory / "scripted.yaml"
    config.write_text(yaml.safe_dump(settings))
    with serve("--config", str(config), "--engine", "synthetic") as server:
        yield server
