"""What README and the documentation tell a reader to type: typed, or at least there (see `documented`)."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import python_path
from tests.e2e.conftest import RunningServer
from tests.e2e.documented import (
    LANGUAGES,
    PAGES,
    PROGRAMS,
    ROOT,
    CommandError,
    Example,
    check,
    commands,
    examples,
)
from trtllm_openai.cli import main
from trtllm_openai.commands import SUMMARIES
from trtllm_openai.config import Settings
from trtllm_openai.config.flags import flags

URL = "http://127.0.0.1:8000"
README = ROOT / "README.md"
ALL = [example for page in PAGES for example in examples(page)]
SCRIPTS = [example for example in ALL if example.language == "sh"]
RUN = {
    page: [one for one in examples(page) if one.language in ("sh", "python") and not one.when]
    for page in PAGES
    if page.name != "README.ko.md"  # has README's examples, which tests/test_docs.py compares
}
COMMAND = """\
#!{python} -P
import sys
from trtllm_openai.cli import main
asking = sys.argv[1:2] and sys.argv[1] in ("bench", "chat", "launch") and "--url" not in sys.argv
sys.exit(main(sys.argv[1:] + (["--url", "{url}"] if asking else [])))
"""
"""`trtllm-openai`, which asks the server of the test where it would ask that of this machine's port 8000."""


def run(example: Example, server: RunningServer, directory: Path) -> str:
    """Run an example in `directory`; returns what it printed. Fails if a command of it does."""
    program = directory / ".venv" / "bin" / "trtllm-openai"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(COMMAND.format(python=sys.executable, url=server.url))
    program.chmod(0o755)
    text = example.text.replace(URL, server.url)
    words = (
        [sys.executable, "-c", text]
        if example.language == "python"
        else ["bash", "-euo", "pipefail", "-c", text]
    )
    path = os.pathsep.join([str(program.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "PYTHONPATH": python_path(), "XDG_STATE_HOME": str(directory)}
    done = subprocess.run(
        words, env=env, cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{example}: {done.stderr[-1000:]}"
    return done.stdout


@pytest.mark.parametrize(
    "page", [page for page, found in RUN.items() if found and page != README], ids=lambda page: page.name
)
def test_examples_run_as_written(page: Path, demo_server: RunningServer, tmp_path: Path) -> None:
    outputs = [run(example, demo_server, tmp_path) for example in RUN[page]]
    assert all(outputs), "an example prints nothing"


@pytest.mark.slow
@pytest.mark.parametrize("example", [one for one in ALL if one.when == "slow"], ids=str)
def test_slow_examples_run_as_written(example: Example, demo_server: RunningServer, tmp_path: Path) -> None:
    assert run(example, demo_server, tmp_path)


def test_the_examples_of_readme_print_what_it_shows(demo_server: RunningServer, tmp_path: Path) -> None:
    answer, sample, terminal = [run(example, demo_server, tmp_path) for example in RUN[README]]
    shown = json.loads(next(one.text for one in examples(README) if one.language == "json"))
    said = json.loads(answer)
    assert said["choices"][0]["message"]["content"] == shown["choices"][0]["message"]["content"]
    assert set(said) >= set(shown)
    assert sample == "The capital of South Korea is Seoul."
    assert terminal.startswith("The capital of South Korea is Seoul.\n")
    assert "CODEX_HOME" in terminal


@pytest.mark.parametrize("example", SCRIPTS, ids=str)
def test_commands_and_flags_exist(example: Example) -> None:
    found = [words for words in commands(example.text) if words]
    assert found
    for words in found:
        try:
            check(words)
        except CommandError as error:
            pytest.fail(f"{example}: {' '.join(words)}\n{error}")


@pytest.mark.parametrize("example", [one for one in ALL if one.language in ("json", "toml", "yaml")], ids=str)
def test_data_can_be_read(example: Example) -> None:
    """And settings are those of the server: a block of them has nothing else."""
    readers: dict[str, Callable[[str], Any]] = {
        "json": json.loads,
        "toml": tomllib.loads,
        "yaml": yaml.safe_load,
    }
    value = readers[example.language](example.text)
    assert value
    if example.language == "yaml" and value.keys() & Settings.model_fields.keys() - {"model"}:
        Settings.model_validate(value)


def test_every_fence_says_what_it_is() -> None:
    """A command in a fence of another language, or in an indented block, would escape."""
    for example in ALL:
        assert example.language in LANGUAGES, f"{example}: {example.language or 'no language'}"
        if example.language == "text":
            _has_no_command(str(example), example.text)
    for page in PAGES:
        indented = re.findall(
            r"(?:^|\n)\n((?: {4}.*\n)+)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        )
        for text in indented:
            _has_no_command(page.name, text)


def _has_no_command(place: str, text: str) -> None:
    for line in text.splitlines():
        first = line.split()[:1]
        assert not first or first[0] not in PROGRAMS or "[FLAGS]" in line, (
            f"{place}: a command, not in sh: {line}"
        )


def test_commands_within_sentences_exist() -> None:
    found = 0
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for span in re.findall(r"`((?:\.venv/bin/)?(?:trtllm-openai|make) [^`\n]+)`", text):
            words = shlex.split(span)
            if "…" in span or "COMMAND" in span or (len(words) == 2 and words[1] in SUMMARIES):
                continue
            found += 1
            try:
                check(words)
            except CommandError as error:
                pytest.fail(f"{page.name}: {span}\n{error}")
    assert found > 20


def test_settings_within_sentences_exist() -> None:
    """`torch.max_seq_len: 2048`, `--torch.max-seq-len`, `TRTLLM_OPENAI_TORCH__MAX_SEQ_LEN`."""
    sections = "|".join(flag.key for flag in flags().values() if flag.kind == "section")
    variables = {flag.variable for flag in flags().values()}
    found = 0
    for page in PAGES:
        for span in re.findall(r"`([^`\n]+)`", page.read_text()):
            named = re.match(rf"(?:--)?((?:{sections})\.[a-z][\w-]*)(?![\w.]*\()", span)
            of_torch = named and hasattr(torch, named[1].removeprefix("torch."))
            if named and not of_torch and not named[1].endswith((".py", "_")):
                found += 1
                known = named[1].replace("-", "_") in flags()
                assert known, f"{page.name}: there is no setting {span}"
            for name in re.findall(r"\bTRTLLM_OPENAI_[A-Z][A-Z_]+\b", span):
                found += 1
                assert name in variables, f"{page.name}: there is no setting {name}"
    assert found > 100


def test_a_script_is_its_commands() -> None:
    script = """\
# what's this
A=1 one 'two
# words' \\
  three   # isn't it
cat > file <<'END'
not a command
END
x | y "#z" && (w >> log)
"""
    assert [words for words in commands(script) if words] == [
        ["A=1", "one", "two\n# words", "three"],
        ["cat"],
        ["x"],
        ["y", "#z"],
        ["w"],
    ]


@pytest.mark.parametrize(
    "command",
    [
        "trtllm-openai serf",
        "trtllm-openai serve --prot 9000",
        "trtllm-openai serve --port nine",
        "TRTLLM_OPENAI_PROT=1 trtllm-openai serve",
        "git diff | trtllm-openai chat --sistem x",
        "make serfe",
        'make serve ARGS="--prot 9000"',
        "docker build --target gpu .",
        "docker compose -f docker/compose.yml up",
        "kubectl apply -k deploy/nowhere",
        "pip install 'trtllm-openai-server[rays]'",
        "python -m tests.nowhere",
        "python benchmarks/compare.py --nothing",
        "docker/build_engine.sh --nothing 1",
        "unheard-of",
    ],
)
def test_what_does_not_exist_is_found(command: str) -> None:
    last = [words for words in commands(command) if words][-1]
    with pytest.raises(CommandError):
        check(last)


def test_every_command_is_named_with_its_exit_statuses() -> None:
    text = README.read_text()
    for verb in SUMMARIES:
        assert f"`{verb}`" in text or f"trtllm-openai {verb}" in text, verb
    assert main([]) == 2
