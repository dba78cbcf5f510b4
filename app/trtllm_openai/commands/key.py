"""`key NAME`: create an API key. Prints the key and the line with its hash for `api_keys_file`."""

from __future__ import annotations

import argparse

from trtllm_openai.commands import Subparsers
from trtllm_openai.errors import ConfigError


def add_parser(subparsers: Subparsers) -> None:
    """Add `key`."""
    parser = subparsers.add_parser("key", help="create an API key and its line for api_keys_file")
    parser.add_argument("name", help="name of the key's owner, shown in logs")
    parser.add_argument("--scopes", choices=["api", "admin", "api,admin"], default="api")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a new key and its line. Raises `ConfigError` for a name that the file cannot hold."""
    from trtllm_openai.api.auth import make_key

    name = arguments.name
    if not name.isprintable() or any(char.isspace() or char == "#" for char in name):
        raise ConfigError("name: must be printable and contain neither spaces nor #")
    key, line = make_key(name, arguments.scopes)
    print(
        f"API key (it is not stored and cannot be shown again):\n  {key}\nLine for api_keys_file:\n  {line}"
    )
    return 0
