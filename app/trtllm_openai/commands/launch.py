"""`launch TOOL`: set up a coding agent or web page on a server, and start it where it is installed."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import click

from trtllm_openai.commands.launch_setups import NO_KEY, TOOLS, Server, Setup
from trtllm_openai.commands.verb import API_KEY, URL, Described, Verb
from trtllm_openai.errors import ConfigError, InvalidRequest


def run(
    tool: str, arguments: tuple[str, ...], url: str, api_key: str | None, model: str | None, only_print: bool
) -> int:
    """Write the tool's files and become the tool. Raises `ConfigError` or `InvalidRequest`."""
    from trtllm_openai.commands.client import Client

    listed = Client(url, api_key).models()
    chosen = next((one for one in listed if model in (None, one["id"])), None)
    if chosen is None:
        raise InvalidRequest(
            f"The server has no model {model}; it has {', '.join(one['id'] for one in listed)}."
        )
    base = url.rstrip("/").removesuffix("/v1")
    base = base if "//" in base else f"http://{base}"
    server = Server(base, api_key or NO_KEY, str(chosen["id"]), int(chosen.get("max_model_len") or 0))
    directory = state_directory() / tool
    setup = TOOLS[tool](server, directory)
    command = [*setup.command, *arguments]
    if only_print:
        print(shown(setup, command, directory))
        return 0
    if shutil.which(command[0]) is None:
        raise InvalidRequest(
            f"{command[0]} is not installed: {setup.install}. --print shows what it would be told."
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in setup.files.items():
            (directory / name).write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{directory} cannot be written: {error.strerror}") from None
    return _become(command, setup.environment)


def _become(command: list[str], environment: dict[str, str]) -> int:
    """Replace this process by the tool, whose exit status is then that of the command."""
    os.execvpe(command[0], command, {**os.environ, **environment})


def state_directory() -> Path:
    """Where the files of tools are: $XDG_STATE_HOME/trtllm-openai."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "trtllm-openai"


def shown(setup: Setup, command: list[str], directory: Path) -> str:
    """The set-up as a shell script, which takes the key from the environment where there is one."""
    lines = [f"mkdir -p {shlex.quote(str(directory))}"] if setup.files else []
    for name, text in setup.files.items():
        lines += [f"cat > {shlex.quote(str(directory / name))} <<'END'", text.rstrip("\n"), "END"]
    for name, value in setup.environment.items():
        quoted = (
            '"$TRTLLM_OPENAI_API_KEY"' if name in setup.secret and value != NO_KEY else shlex.quote(value)
        )
        lines.append(f"export {name}={quoted}")
    return "\n".join([f"# {setup.install}", *lines, shlex.join(command)])


command = Verb(
    "launch",
    help="Set up a tool on a server and start it. Your own configuration of the tool is left alone: its "
    "files go to ~/.local/state/trtllm-openai. --print shows files, variables and command as a script, "
    "and does nothing.",
    run=run,
    params=[
        Described("tool", ", ".join(TOOLS), type=click.Choice(list(TOOLS))),
        Described("arguments", "for the tool, after --", nargs=-1, type=click.UNPROCESSED),
        URL,
        API_KEY,
        click.Option(["--model"], metavar="ID", help="without: the first that the server lists"),
        click.Option(["--print", "only_print"], is_flag=True, help="show the set-up and do nothing"),
    ],
    examples=[
        ("trtllm-openai launch codex", "Codex on the server of this machine"),
        ("trtllm-openai launch claude --url http://host:8000 -- -p 'Explain this folder.'", "with arguments"),
        ("trtllm-openai launch opencode --print", "what it is told"),
    ],
)
