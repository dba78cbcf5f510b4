"""`key NAME`: create an API key. Prints the key; prints the line for `api_keys_file`, or appends it there."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_openai.commands import Subparsers
from trtllm_openai.errors import ConfigError

if TYPE_CHECKING:
    from trtllm_openai.runners.tenants import KeyLimits

LIMITS = {
    "requests_per_minute": "generating requests a minute",
    "tokens_per_minute": "prompt and generated tokens a minute",
    "concurrent": "requests at a time, in place of limits.max_requests_per_key",
    "max_tokens": "generated tokens of a choice",
    "priority": "0 to 1: order among keys, and highest priority of its requests",
}
"""The fields of `runners.tenants.KeyLimits`, each with a flag."""


def add_parser(subparsers: Subparsers) -> None:
    """Add `key`."""
    parser = subparsers.add_parser("key", help="create an API key and its line for api_keys_file")
    parser.add_argument("name", help="name of the key's owner, shown in logs")
    parser.add_argument("--scopes", choices=["api", "admin", "api,admin"], default="api")
    parser.add_argument("--append", type=Path, metavar="FILE", help="append the line to this api_keys_file")
    limits = parser.add_argument_group("limits of the name, for all its keys; without: those it has in FILE")
    for name, text in LIMITS.items():
        limits.add_argument(f"--{name.replace('_', '-')}", metavar="NUMBER", help=text)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a new key; print or append its line.

    Raises `ConfigError` for a name that the file cannot hold, a limit that is no number or not the one that
    the name has in the file, and a file of something else or not writable.
    """
    from trtllm_openai.api.auth import make_key
    from trtllm_openai.runners.tenants import KeyLimits

    name = arguments.name
    if not name.isprintable() or any(char.isspace() or char == "#" for char in name):
        raise ConfigError("name: must be printable and contain neither spaces nor #")
    given = [f"{limit}={value}" for limit in LIMITS if (value := getattr(arguments, limit)) is not None]
    try:
        limits = KeyLimits.parse(given)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    key, line = make_key(name, arguments.scopes)
    said = f"API key (it is not stored and cannot be shown again):\n  {key}"
    if arguments.append is None:
        print(f"{said}\nLine for api_keys_file:\n  {_with_limits(line, limits)}")
    else:
        append(arguments.append.expanduser(), name, line, limits if given else None)
        print(f"{said}\nIts line was appended to {arguments.append}.")
    return 0


def append(path: Path, name: str, line: str, limits: KeyLimits | None) -> None:
    """Append the line of a key to a keys file, which is made if there is none. Raises `ConfigError`.

    `limits` None: those that the name has in the file. It cannot get others: a name has one set.
    """
    from trtllm_openai.api.auth import Keys
    from trtllm_openai.runners.tenants import KeyLimits

    try:
        with open(path, "ab+", opener=_private) as file:
            known = Keys(path).limits(name)  # a line must not end up in a file that is none of keys
            if known is not None and limits not in (None, known):
                has = " ".join(known.words()) or "none"
                raise ConfigError(f"{path}: {name} has other limits there ({has}); change its lines instead")
            file.seek(0)
            begin = b"" if file.read()[-1:] in (b"", b"\n") else b"\n"
            whole = _with_limits(line, known or limits or KeyLimits())
            file.write(begin + whole.encode() + b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _with_limits(line: str, limits: KeyLimits) -> str:
    return " ".join([line, *limits.words()])


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
