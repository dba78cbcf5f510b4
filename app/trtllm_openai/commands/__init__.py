"""The verbs of the command line, one module each, all of one shape.

    add_parser(subparsers)    adds the verb's parser, its flags, and `run` as the parser's default
    run(arguments) -> int     does the work; returns the exit status

`run` raises `ConfigError`, `CheckpointError` or `InvalidRequest`; `cli.main` turns them into a message and an
exit status. Modules that are slow to import (FastAPI, torch) are imported in `run`, not at the top.
"""

from __future__ import annotations

import argparse
from typing import TypeAlias

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
