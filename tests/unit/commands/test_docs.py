"""The reference of commands in docs/cli.md is current, and has every command's flags and examples."""

from pathlib import Path

import click

from tests.unit.written_parts import check_current, check_updated
from trtllm_openai.commands import PROGRAM, SUMMARIES, docs
from trtllm_openai.commands.verb import load_verb


def part(name: str) -> str:
    """What the reference says of a command."""
    return docs.reference().partition(f"## `{name}`\n")[2].partition("\n## ")[0]


def test_the_page_is_current() -> None:
    check_current(docs.PART, "cli.md")


def test_a_stale_page_is_updated(tmp_path: Path) -> None:
    check_updated(docs.PART, "cli.md", ("## `bench`", "## `bank`"), tmp_path)


def test_every_command_has_its_flags_and_examples() -> None:
    for name in SUMMARIES:
        command, text = load_verb(name), part(name)
        assert f"{PROGRAM} {name} " in text
        assert all(line in text for line, _ in command.examples)
        for param in command.own:
            names = [str(param.name).upper()] if isinstance(param, click.Argument) else param.opts
            assert all(one in text for one in names), (name, names)
        takes_settings = any(
            one.name == "setting__model" for one in command.get_params(click.Context(command))
        )
        assert ("[setting](configuration.md)" in text) is takes_settings, name


def test_rows() -> None:
    assert (
        "| `--scopes api\\|admin\\|api,admin` | `api` | admin permits metrics and runner control |"
        in part("key")
    )
    assert "| `--stream, --no-stream` |  |" in part("generate")
    assert "| `SHELL` |  | bash, zsh, fish |" in part("completion")
    assert "| `[MODEL]` |  | the same as --model |" in part("serve")
    assert "| `--seed N` | `0` |  |" in part("bench")
