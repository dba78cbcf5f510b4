"""`key NAME`: create an API key. Prints the key; prints the line for `api_keys_file`, or appends it there."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from trtllm_openai.commands import Subparsers
from trtllm_openai.errors import ConfigError


def add_parser(subparsers: Subparsers) -> None:
    """Add `key`."""
    parser = subparsers.add_parser("key", help="create an API key and its line for api_keys_file")
    parser.add_argument("name", help="name of the key's owner, shown in logs")
    parser.add_argument("--scopes", choices=["api", "admin", "api,admin"], default="api")
    parser.add_argument("--append", type=Path, metavar="FILE", help="append the line to this api_keys_file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a new key; print or append its line.

    Raises `ConfigError` for a name that the file cannot hold, and a file of something else or not writable.
    """
    from trtllm_openai.api.auth import make_key

    name = arguments.name
    if not name.isprintable() or any(char.isspace() or char == "#" for char in name):
        raise ConfigError("name: must be printable and contain neither spaces nor #")
    key, line = make_key(name, arguments.scopes)
    said = f"API key (it is not stored and cannot be shown again):\n  {key}"
    if arguments.append is None:
        print(f"{said}\nLine for api_keys_file:\n  {line}")
    else:
        append(arguments.append.expanduser(), line)
        print(f"{said}\nIts line was appended to {arguments.append}.")
    return 0


def append(path: Path, line: str) -> None:
    """Append a line to a keys file, which is made if there is none. Raises `ConfigError`."""
    from trtllm_openai.api.auth import Keys

    try:
        with open(path, "ab+", opener=_private) as file:
            Keys(path)  # a line must not end up in a file that is none of keys
            file.seek(0)
            begin = b"" if file.read()[-1:] in (b"", b"\n") else b"\n"
            file.write(begin + line.encode() + b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
