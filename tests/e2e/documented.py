"""The examples in README and the documentation: where they are, and whether their commands exist.

A fence marked `sh` holds commands that are run by `test_commands.py`, from top to bottom of a page. One that
cannot be has a comment before it that says why, `<!-- not run: needs a GPU -->`, and its commands are only
looked at here: programs, flags, values of settings, targets, files. After `<!-- slow: … -->` they are run by
`make test-all`.
"""

from __future__ import annotations

import itertools
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
from markdown_it import MarkdownIt

from trtllm_openai.commands import SUMMARIES
from trtllm_openai.commands.verb import load_verb, settings_of
from trtllm_openai.config.flags import flags
from trtllm_openai.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "README.ko.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/README.md")
    ),
    *sorted((ROOT / "docs").glob("*.md")),
]
LANGUAGES = {"sh", "python", "js", "json", "yaml", "toml", "text"}
_COMMENTED = re.compile(r"<!-- (not run|slow): .+ -->")
_COMMENT = re.compile(r"""('[^']*'|"(?:\\.|[^"\\])*")|(?:(?<=\s)|^)#[^\n]*""", re.MULTILINE)
"""A text in quotes, or a comment outside of one."""


class CommandError(Exception):
    """A command that cannot be meant."""


@dataclass(frozen=True)
class Example:
    """A fence of a page. `when`: `not run` or `slow`; empty if it always runs."""

    page: Path
    line: int
    language: str
    text: str
    when: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def examples(page: Path) -> list[Example]:
    """All fences of a page, in order."""
    found, when = [], ""
    for token in MarkdownIt("commonmark").parse(page.read_text()):
        if token.type == "fence":
            line = token.map[0] + 1 if token.map else 0
            found.append(Example(page, line, token.info.strip(), token.content, when))
        matched = _COMMENTED.search(token.content) if token.type == "html_block" else None
        when = matched[1] if matched else ""
    return found


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a script, without comments, redirections and here-documents."""
    text = _COMMENT.sub(lambda found: found[1] or "", re.sub(r"\\\n\s*", "", text))
    text = re.sub(r"<<\s*'?(\w+)'?(.*\n)(?:.*\n)*?\1\n", r"\2", text)
    lexer = shlex.shlex(text, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    tokens = iter(lexer)
    for token in tokens:
        if re.fullmatch(r"[<>]+&?", token):
            next(tokens, None)
        elif re.fullmatch(r"[();|&\n]+", token):
            yield words
            words = []
        else:
            words.append(token)
    yield words


def check(words: Sequence[str]) -> None:
    """Raises `CommandError` for a command of ours, or of a tool on our files, that does not exist."""
    rest = list(words)
    while rest and (assigned := re.fullmatch(r"(\w+)=.*", rest[0], re.DOTALL)):
        variable(assigned[1])
        rest.pop(0)
    if not rest:
        return
    program = rest[0].removeprefix(".venv/bin/")
    if program not in PROGRAMS:
        raise CommandError(f"{program}: add it to PROGRAMS of {__name__}")
    PROGRAMS[program](rest[1:])


def variable(name: str) -> None:
    """Raises `CommandError` for a variable with our prefix that is no setting."""
    if name.startswith("TRTLLM_OPENAI_") and name not in {flag.variable for flag in flags().values()}:
        raise CommandError(f"there is no setting {name}")


def _ours(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0].startswith("-"):
        return
    name, *rest = arguments
    if name not in SUMMARIES:
        raise CommandError(f"there is no command {name}")
    try:
        with load_verb(name).make_context(name, rest) as ctx:
            if "config" in ctx.params and "setting__model" in {param.name for param in ctx.command.params}:
                settings_of(ctx, None, ctx.params.get("model"))
    except click.exceptions.Exit:  # --help
        pass
    except (click.UsageError, ConfigError) as error:
        raise CommandError(f"{name}: {error}") from None


def _make(arguments: Sequence[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [one for one in arguments if "=" not in one and not one.startswith("-")]
    for target in targets:
        if not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE):
            raise CommandError(f"make: there is no target {target}")
    for one in arguments:
        name, _, value = one.partition("=")
        if name == "ARGS" and targets == ["serve"]:
            _ours(["serve", *shlex.split(value)])
        elif "=" in one and f"$({name})" not in makefile and f"${{{name}" not in makefile:
            raise CommandError(f"make: no target reads {name}")


def _docker(arguments: Sequence[str]) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    compose = (ROOT / "docker" / "compose.yaml").read_text()
    for flag, value in itertools.pairwise(arguments):
        if flag == "--target" and f" AS {value}\n" not in dockerfile:
            raise CommandError(f"Dockerfile has no stage {value}")
        if flag == "--profile" and not re.search(rf"\b{value}\b", compose):
            raise CommandError(f"compose.yaml has no profile {value}")
        if flag == "-f" and not (ROOT / value).exists():
            raise CommandError(f"there is no {value}")


def _kubectl(arguments: Sequence[str]) -> None:
    for flag, value in itertools.pairwise(arguments):
        if flag == "-k" and not (ROOT / value / "kustomization.yaml").exists():
            raise CommandError(f"there is no {value}/kustomization.yaml")


def _pip(arguments: Sequence[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for one in arguments:
        named = re.fullmatch(r"trtllm-openai-server\[([\w,-]+)\].*", one)
        extras = set(named[1].split(",")) if named else set()
        if unknown := extras - project["optional-dependencies"].keys():
            raise CommandError(f"pyproject.toml has no extra {', '.join(unknown)}")


def _python(arguments: Sequence[str]) -> None:
    first, *rest = arguments or [""]
    if first == "-m" and rest and rest[0].startswith(("trtllm_openai", "tests.")):
        module = rest[0].replace(".", "/")
        if not any((ROOT / base / f"{module}{end}").exists() for base in ("app", ".") for end in (".py", "")):
            raise CommandError(f"there is no module {rest[0]}")
    elif first.endswith(".py") and "/" in first:
        _script(first)(rest)


def _script(path: str) -> Callable[[Sequence[str]], None]:
    """Of a program of the repository: it exists, and its text has the flags."""

    def look(arguments: Sequence[str]) -> None:
        if not (ROOT / path).is_file():
            raise CommandError(f"there is no {path}")
        text = (ROOT / path).read_text()
        for flag in (one.partition("=")[0] for one in arguments if one.startswith("--")):
            if flag not in text:
                raise CommandError(f"{path} has no {flag}")

    return look


def _any(arguments: Sequence[str]) -> None:
    pass


PROGRAMS: dict[str, Callable[[Sequence[str]], None]] = {
    "trtllm-openai": _ours,
    "make": _make,
    "docker": _docker,
    "kubectl": _kubectl,
    "pip": _pip,
    "python": _python,
    "python3": _python,
    "docker/build_engine.sh": _script("docker/build_engine.sh"),
    **dict.fromkeys(("curl", "kind", "npm", "npx", "ray"), _any),
    **dict.fromkeys(("cat", "cd", "eval", "export", "git", "mkdir"), _any),
    **dict.fromkeys(("aider", "claude", "cline", "cn", "codex", "litellm", "open-webui", "opencode"), _any),
}
"""Programs that examples start, each with what is looked at."""
