"""Every command as a part of the reference of the command line, and the command that writes them into a page.

`python -m trtllm_openai.commands.docs docs/cli.md` replaces the text between the page's two markers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from trtllm_openai.commands import PROGRAM, SUMMARIES
from trtllm_openai.commands.verb import Described, SettingOption, Verb, load_verb
from trtllm_openai.pages import Part

_METAVARS = {"integer": "N", "float": "X", "text": "TEXT", "path": "PATH"}


def reference() -> str:
    """A part for each command: what it does, its usage, examples, and its own arguments and flags."""
    return "\n\n".join(["", *(part for name in SUMMARIES for part in _command(load_verb(name)))]) + "\n"


def _command(command: Verb) -> Iterator[str]:
    arguments = [param for param in command.own if isinstance(param, click.Argument)]
    yield f"## `{command.name}`"
    yield command.help or ""
    usage = " ".join([PROGRAM, str(command.name), "[FLAGS]", *map(_placed, arguments)])
    yield f"```text\n{usage}\n```"
    if command.examples:
        shown = "\n".join(f"# {meaning}\n{line}" for line, meaning in command.examples)
        yield f"<!-- not run: files and hosts are examples -->\n```sh\n{shown}\n```"
    rows = [_row(param) for param in command.own]
    if rows:
        yield "\n".join(["| argument or flag | default | |", "|---|---|---|", *rows])
    with click.Context(command) as ctx:
        if any(isinstance(param, SettingOption) for param in command.get_params(ctx)):
            yield "And a flag for every [setting](configuration.md)."


def _placed(argument: click.Argument) -> str:
    name = str(argument.name).upper() + (" …" if argument.nargs == -1 else "")
    return name if argument.required and argument.nargs == 1 else f"[{name}]"


def _row(param: click.Parameter) -> str:
    help = param.text if isinstance(param, Described) else getattr(param, "help", None)
    if not help and isinstance(param, click.Argument):
        help = ", ".join(_choices(param))
    cells = (f"`{_named(param)}`", _default(param), help or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _named(param: click.Parameter) -> str:
    if isinstance(param, click.Argument):
        return _placed(param)
    names = ", ".join([*param.opts, *param.secondary_opts])
    if isinstance(param, click.Option) and (param.is_flag or param.count):
        return names
    value = param.metavar or "|".join(_choices(param)) or _METAVARS[param.type.name]
    return f"{names} {value}"


def _choices(param: click.Parameter) -> list[str]:
    return list(map(str, param.type.choices)) if isinstance(param.type, click.Choice) else []


def _default(param: click.Parameter) -> str:
    """As it is typed; empty if there is none (click has a value of its own for that)."""
    default = param.default
    shown = isinstance(default, str | int | float) and not isinstance(default, bool) and default != ""
    return f"`{default}`" if shown else ""


PART = Part("commands", "trtllm_openai.commands.docs", reference)

if __name__ == "__main__":
    sys.exit(PART.main(sys.argv[1:]))
