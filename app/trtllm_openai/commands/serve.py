"""`serve`: the HTTP server, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse

from trtllm_openai.commands import Subparsers
from trtllm_openai.config import add_flags, load_settings


def add_parser(subparsers: Subparsers) -> None:
    """Add `serve` with a flag for every setting."""
    parser = subparsers.add_parser("serve", help="serve a model over HTTP")
    add_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve; returns the exit status. Raises `ConfigError` or `CheckpointError`."""
    from trtllm_openai.serve import command

    return command.run(load_settings(arguments))
