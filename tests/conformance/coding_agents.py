"""Coding agents, each through a whole turn: a call, its execution on this machine, and a final answer.

An agent is started as its user would start it in a script, by `trtllm-openai launch`, whose settings alone
say where the server is; what is said here keeps it from asking anybody else. It has a home directory of its
own and an environment without anything of the caller's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.conformance import install
from tests.conformance.page import Row
from tests.conftest import PACKAGE_ROOT
from tests.e2e.conftest import RunningServer
from tests.e2e.documented import ROOT, examples
from tests.e2e.scripted import CONTEXT, call, scripted
from trtllm_openai.checkpoints.resolve import DEMO_NAME

MODEL = "scripted"
COMMAND = "echo 4$((1 + 1)) > told.txt"
TOLD = "42\n"
"""The text that the call leaves in `told.txt`: no text of the model's says it."""
BEGINNING = "I look into it."
SAID = "The file says 42."
PATIENCE_S = 120
RECIPES = ROOT / "docs" / "recipes.md"


@dataclass(frozen=True)
class Run:
    """One run of an agent in a directory that holds `home` and `work`."""

    url: str
    """Of the server, without a path."""
    home: Path
    work: Path

    def launch(
        self, tool: str, program: Path, *arguments: str, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """`launch` a tool with these arguments."""
        command = [sys.executable, "-m", "trtllm_openai", "launch", tool, "--url", self.url, "--"]
        return self.start([*command, *arguments], program.parent, **more)

    def start(
        self, command: list[str], programs: Path = install.NODE_BIN, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in `work`, with these variables and little else; `programs` is first in PATH."""
        folders = [str(programs), str(install.node().parent), os.environ.get("PATH")]
        environment = {
            "PATH": os.pathsep.join(filter(None, folders)),
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(self.home / "state"),
            "PYTHONPATH": str(PACKAGE_ROOT),
            "TERM": "dumb",
            **more,
        }
        return subprocess.run(
            command,
            cwd=self.work,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )


@dataclass(frozen=True)
class Turn:
    """The steps that an agent is driven through. `check` looks at what only this one shows."""

    name: str
    script: tuple[str, ...]
    start: Callable[[Run], subprocess.CompletedProcess[str]]
    check: Callable[[subprocess.CompletedProcess[str], RunningServer], None] = lambda done, server: None


def drive(turns: tuple[Turn, ...], directory: Path) -> list[Row]:
    """A row for each turn."""
    return [_row(turn, directory) for turn in turns]


def _row(turn: Turn, directory: Path) -> Row:
    place = directory / re.sub(r"\W+", "-", turn.name)
    run = Run("", place / "home", place / "work")
    for made in (place, run.home, run.work):
        made.mkdir()
    try:
        with scripted(place, MODEL, *turn.script) as server:
            done = turn.start(Run(server.url, run.home, run.work))
            requests = server.metric("model_requests_total")
            assert done.returncode == 0, (done.stdout + done.stderr)[-600:]
            told = run.work / "told.txt"
            assert told.exists(), f"the call was not executed: {(done.stdout + done.stderr)[-600:]}"
            assert told.read_text() == TOLD
            assert requests == len(turn.script), f"{requests} requests"
            turn.check(done, server)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        return turn.name, False, str(error)
    finally:
        shutil.rmtree(run.home, ignore_errors=True)
    return turn.name, True, ""


def _says(done: subprocess.CompletedProcess[str], server: RunningServer) -> None:
    assert done.stdout.strip().endswith(SAID), done.stdout[-300:]


def _codex(run: Run) -> subprocess.CompletedProcess[str]:
    off = ("-c", "check_for_update_on_startup=false", "-c", "analytics.enabled=false")
    flags = ("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
    return run.launch("codex", install.NODE_BIN / "codex", *off, "exec", *flags, "Look.")


def _codex_says(done: subprocess.CompletedProcess[str], server: RunningServer) -> None:
    _says(done, server)
    assert "invalid agent id nobody" in done.stderr, "the function was not found in its namespace"
    log = "".join(server.stdout + server.stderr)
    assert re.search(r"ignored .*tools\[\d+\] \(web_search\)", log), "the left-out tool is not in the log"


CODEX = (
    Turn(
        "responses: a call of a function, one of a namespace, both executed, and the answer",
        (
            BEGINNING + call("exec_command", cmd=COMMAND),
            call("multi_agent_v1__close_agent", target="nobody"),
            SAID,
        ),
        _codex,
        _codex_says,
    ),
)


def _claude_code(run: Run) -> subprocess.CompletedProcess[str]:
    arguments = ("-p", "Look.", "--allowedTools", "Bash", "--output-format", "json")
    off = dict.fromkeys(("DISABLE_AUTOUPDATER", "DISABLE_ERROR_REPORTING", "DISABLE_TELEMETRY"), "1")
    return run.launch("claude", install.NODE_BIN / "claude", *arguments, **off)


def _claude_code_says(done: subprocess.CompletedProcess[str], server: RunningServer) -> None:
    result = json.loads(done.stdout)
    assert result["result"] == SAID
    assert (result["is_error"], result["num_turns"], result["stop_reason"]) == (False, 2, "end_turn")
    assert result["usage"]["input_tokens"] > 20_000
    assert result["usage"]["output_tokens"] > 20


CLAUDE_CODE = (
    Turn(
        "messages: a call, executed, and the answer",
        (BEGINNING + call("Bash", command=COMMAND, description="Write the file"), SAID),
        _claude_code,
        _claude_code_says,
    ),
)


def _opencode(package: str) -> Callable[[Run], subprocess.CompletedProcess[str]]:
    """`package`: the client of an API, for the settings of `launch` have that of chat."""

    def start(run: Run) -> subprocess.CompletedProcess[str]:
        config = {
            "autoupdate": False,
            "share": "disabled",
            "permission": "allow",
            "provider": {"here": {"npm": package}},
        }
        (run.work / "opencode.json").write_text(json.dumps(config))
        off = ("AUTOUPDATE", "DEFAULT_PLUGINS", "LSP_DOWNLOAD", "MODELS_FETCH")
        # A title is asked for in a request of its own, at any time, unless it is given.
        return run.launch(
            "opencode",
            install.NODE_BIN / "opencode",
            *("run", "--title", "a title", "Look."),
            **{f"OPENCODE_DISABLE_{one}": "1" for one in off},
        )

    return start


OPENCODE = tuple(
    Turn(
        f"{api}: a call, executed, and the answer",
        (BEGINNING + call("bash", command=COMMAND, description="Write the file"), SAID),
        _opencode(package),
        _says,
    )
    for api, package in (
        ("chat", "@ai-sdk/openai-compatible"),
        ("responses", "@ai-sdk/openai"),
        ("messages", "@ai-sdk/anthropic"),
    )
)


def _aider(edit_format: str) -> Callable[[Run], subprocess.CompletedProcess[str]]:
    def start(run: Run) -> subprocess.CompletedProcess[str]:
        # It looks for prices at a public address unless it has looked there today.
        cache = run.home / ".aider" / "caches"
        cache.mkdir(parents=True)
        known = {"litellm_provider": "openai", "mode": "chat", "max_input_tokens": CONTEXT}
        (cache / "model_prices_and_context_window.json").write_text(json.dumps({f"openai/{MODEL}": known}))
        off = (
            "--no-git",
            "--analytics-disable",
            "--no-check-update",
            "--no-show-release-notes",
            "--no-pretty",
        )
        more = (*off, "--no-detect-urls", "--yes-always", "--map-tokens", "0")
        return run.launch(
            "aider",
            install.python("aider").with_name("aider"),
            *("--edit-format", edit_format, *more, "--message", "Write.", "told.txt"),
            LITELLM_LOCAL_MODEL_COST_MAP="True",
        )

    return start


AIDER = (
    Turn(
        "chat: a whole file, written",
        (f"{BEGINNING}\n\ntold.txt\n```\n{TOLD}```\n",),
        _aider("whole"),
    ),
    Turn(
        "chat: an edit, applied",
        (f"{BEGINNING}\n\ntold.txt\n```\n<<<<<<< SEARCH\n=======\n{TOLD}>>>>>>> REPLACE\n```\n",),
        _aider("diff"),
    ),
)


def _cline(run: Run) -> subprocess.CompletedProcess[str]:
    program = str(install.NODE_BIN / "cline")
    done = run.start([program, "auth", "-p", "openai", "-b", f"{run.url}/v1", "-k", "none", "-m", MODEL])
    return done if done.returncode else run.start([program, "--timeout", str(PATIENCE_S // 2), "Look at it."])


def _answers(done: subprocess.CompletedProcess[str], server: RunningServer) -> None:
    assert SAID in done.stdout, done.stdout[-300:]


CLINE = (
    Turn(
        "chat: a call, executed, and the answer",
        (BEGINNING + call("run_commands", commands=[COMMAND]), SAID),
        _cline,
        _answers,
    ),
)


def _continue(run: Run) -> subprocess.CompletedProcess[str]:
    """With the configuration of docs/recipes.md."""
    (text,) = [one.text for one in examples(RECIPES) if "capabilities: [tool_use]" in one.text]
    config = run.home / "config.yaml"
    config.write_text(text.replace("http://127.0.0.1:8000", run.url).replace(DEMO_NAME, MODEL))
    command = [str(install.NODE_BIN / "cn"), "--config", str(config), "--allow", "Bash", "-p", "Look."]
    return run.start(command, CONTINUE_TELEMETRY_ENABLED="0")


CONTINUE = (
    Turn(
        "chat: a call, executed, and the answer",
        (BEGINNING + call("Bash", command=COMMAND), SAID),
        _continue,
        _answers,
    ),
)
