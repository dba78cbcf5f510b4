"""The command line and the environment of child processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SOURCE_ROOT = Path(__file__).resolve().parents[2]


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package with this interpreter.

    -P keeps the working directory off its path: a `json.py` there would be imported for the library's.
    """
    return [sys.executable, "-P", "-m", name, *arguments]


def child_environment(**variables: str) -> dict[str, str]:
    """This process's environment, in which a child finds this package, with `variables` set."""
    path = os.pathsep.join([str(SOURCE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **variables}
