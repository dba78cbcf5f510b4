"""`key NAME`: create an API key. Prints the key; appends its line to `api_keys_file`, or prints it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtllm_openai.commands.verb import CONFIG, Described, Verb
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


def run(name: str, scopes: str, file: str | None, config: str | None, **limits: str | None) -> int:
    """Print a new key; append its line to the file of keys, or print it.

    Raises `ConfigError` for a name that the file cannot hold, a limit that is no number or not the one that
    the name has in the file, and a file of something else or not writable.
    """
    from trtllm_openai.api.auth import make_key
    from trtllm_openai.config import load_settings
    from trtllm_openai.runners.tenants import KeyLimits

    if not name.isprintable() or any(char.isspace() or char == "#" for char in name):
        raise ConfigError("name: must be printable and contain neither spaces nor #")
    given = [f"{limit}={value}" for limit in LIMITS if (value := limits[limit]) is not None]
    try:
        allowed = KeyLimits.parse(given)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    file = file or load_settings(file=config).api_keys_file
    key, line = make_key(name, scopes)
    said = f"API key (it is not stored and cannot be shown again):\n  {key}"
    if file is None:
        print(f"{said}\nLine for api_keys_file:\n  {_with_limits(line, allowed)}")
    else:
        append(Path(file).expanduser(), name, line, allowed if given else None)
        print(
            f"{said}\nIts line was appended to {file}; a server that runs with it takes the key within a "
            f"second."
        )
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


command = Verb(
    "key",
    help="Create an API key, and put its line into the file of keys that --file or the settings name.",
    run=run,
    params=[
        Described("name", "name of the key's owner, shown in logs"),
        click.Option(["--file", "--append", "file"], metavar="FILE", help="the file; without: api_keys_file"),
        click.Option(
            ["--scopes"],
            type=click.Choice(["api", "admin", "api,admin"]),
            default="api",
            show_default=True,
            help="admin permits metrics and runner control",
        ),
        CONFIG,
        *(
            click.Option([f"--{name.replace('_', '-')}"], metavar="N", help=f"limit of the name: {text}")
            for name, text in LIMITS.items()
        ),
    ],
    examples=[
        ("trtllm-openai key alice --file keys", "a key for alice; serve with --api-keys-file keys"),
        ("trtllm-openai key batch --file keys --concurrent 8 --priority 0.2", "with limits"),
        ("trtllm-openai key ops --file keys --scopes api,admin", "for metrics and runner control too"),
    ],
)
