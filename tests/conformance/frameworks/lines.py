"""Shared by the programs of this folder. Each runs in its framework's own environment, as `python -m`.

A program prints a JSON line for each feature, `{feature, ok, detail}`, as node/lines.mjs does. `URL` is a
server with the demo model, which obeys schemas and is too small for much else. `SCRIPTED` is one whose engine
says two things in turn: a call of `pick`, and `SAID`; so a feature that asks it asks it twice.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import traceback
from typing import Any

URL = os.environ["CONFORMANCE_URL"]
SCRIPTED = os.environ["CONFORMANCE_SCRIPTED"]
MODEL = os.environ["CONFORMANCE_MODEL"]
KEY = "none"
COLORS = ("red", "green")
PICKED = "red"
SAID = "It is red."


def without_version(url: str) -> str:
    """The base URL as Anthropic's clients want it."""
    return url.removesuffix("/v1")


def run(subject: object) -> None:
    """Check the public methods of `subject`, in order and in one event loop. Docstrings name features."""
    with asyncio.Runner() as runner:
        for name in vars(type(subject)):
            if not name.startswith("_"):
                print(json.dumps(_line(getattr(subject, name), runner)), flush=True)


def _line(check: Any, runner: asyncio.Runner) -> dict[str, Any]:
    detail = ""
    try:
        result = check()
        if inspect.iscoroutine(result):
            runner.run(result)
    except Exception as error:  # every kind of failure is a line
        last = traceback.extract_tb(error.__traceback__)[-1]
        detail = f"{type(error).__name__}: {str(error)[:500]} ({last.name}, line {last.lineno}: {last.line})"
    return {"feature": check.__doc__, "ok": not detail, "detail": detail}
