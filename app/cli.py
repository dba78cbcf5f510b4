"""The command line: `serve`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from app import __version__
from app.config import ConfigError, Settings, add_flags, load_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2: wrong configuration)."""
    parser = argparse.ArgumentParser(
        prog="trtllm-openai", description="OpenAI-compatible inference server over TensorRT-LLM engines."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve_parser = commands.add_parser("serve", help="serve a model over HTTP")
    flags = add_flags(serve_parser)
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings(flags, arguments, arguments.config)
    except ConfigError as error:
        print(f"trtllm-openai: wrong configuration\n{error}", file=sys.stderr)
        return 2
    return serve(settings)


def serve(settings: Settings) -> int:
    """Serve until stopped. Returns 1 when the model cannot be served."""
    from app.serving import run

    return run(settings)
