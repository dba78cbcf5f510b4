"""The command line: assembles the verbs of `commands/`, and turns errors into messages and exit statuses."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from trtllm_openai import __version__
from trtllm_openai.commands import bench, doctor, generate, inspect, key, serve
from trtllm_openai.errors import CheckpointError, ConfigError, InvalidRequest

COMMANDS = (serve, generate, doctor, bench, key, inspect)
FAILED, WRONG_USAGE = 1, 2
"""Exit statuses: the command cannot be done; the flags or the settings are wrong."""


class Parser(argparse.ArgumentParser):
    """Parser of the root and of each verb. It takes no abbreviated flags.

    With abbreviations, `--api-key SECRET` would be read as `--api-keys-file SECRET`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "allow_abbrev": False})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status (see `FAILED` and `WRONG_USAGE`)."""
    parser = Parser(
        prog="trtllm-openai", description="OpenAI-compatible inference server over TensorRT-LLM engines."
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:  # the names alone: a value may be a secret
        flags = [word.partition("=")[0] for word in unknown if word.startswith("--")]
        parser.error(f"unknown flags: {' '.join(flags)}" if flags else "too many arguments")
    try:
        return int(arguments.run(arguments))
    except ConfigError as error:
        print(f"trtllm-openai: wrong configuration\n{error}", file=sys.stderr)
        return WRONG_USAGE
    except (CheckpointError, InvalidRequest) as error:
        print(f"trtllm-openai: {error}", file=sys.stderr)
        return FAILED
