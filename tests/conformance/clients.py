"""The clients of the conformance tests: how each is run, and what it reports."""

from __future__ import annotations

import json
import os
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from tests.conformance import anthropic_python, coding_agents, install, open_webui, openai_python
from tests.conformance.coding_agents import Turn
from tests.conformance.page import Row
from tests.e2e.scripted import call, scripted

PATIENCE_S = 2400
"""For all that one client is driven through: a suite asks the demo model for long answers, on few cores."""


@dataclass(frozen=True)
class Servers:
    """`url` serves the demo model, `scripted` says a call of `pick` and an answer in turn: base URLs."""

    url: str
    scripted: str
    model: str
    directory: Path

    def environment(self) -> dict[str, str]:
        """The environment that the programs of this folder read."""
        return {
            **os.environ,
            "CONFORMANCE_URL": self.url,
            "CONFORMANCE_SCRIPTED": self.scripted,
            "CONFORMANCE_MODEL": self.model,
            "LANGSMITH_TRACING": "false",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "OPENAI_AGENTS_DISABLE_TRACING": "1",
            "PYTHONPATH": str(install.ROOT),
        }


@dataclass(frozen=True)
class Client:
    """`installed_as`: its name for `install`, empty if it is in the server's own environment.

    `packages`: those whose versions the page names. `at_least`: the rows that a whole run has.
    """

    name: str
    run: Callable[[Servers], list[Row]]
    packages: tuple[str, ...]
    installed_as: str = ""
    at_least: int = 6

    def missing(self) -> str:
        """Why it cannot be run."""
        return install.missing(self.installed_as) if self.installed_as else ""

    def versions(self) -> str:
        def of(package: str) -> str:
            return install.version(self.installed_as, package) if self.installed_as else version(package)

        if len(self.packages) == 1:
            return of(self.packages[0])
        return ", ".join(f"{package} {of(package)}" for package in self.packages)


def _in_python(
    features: Callable[[str, str], AbstractContextManager[dict[str, Callable[[], None]]]],
) -> Callable[[Servers], list[Row]]:
    def run(servers: Servers) -> list[Row]:
        rows: list[Row] = []
        with features(servers.url, servers.model) as checks:
            for name, check in checks.items():
                try:
                    check()
                except Exception as error:  # every kind of failure is a row
                    rows.append((name, False, f"{type(error).__name__}: {error}"))
                else:
                    rows.append((name, True, ""))
        return rows

    return run


def _program(command: Callable[[], list[str]], directory: Path) -> Callable[[Servers], list[Row]]:
    """A program that prints a JSON line for each feature."""

    def run(servers: Servers) -> list[Row]:
        done = subprocess.run(
            command(),
            cwd=directory,
            env=servers.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return [(line["feature"], line["ok"], line["detail"]) for line in lines]

    return run


def _node(script: str) -> Callable[[Servers], list[Row]]:
    return _program(lambda: [str(install.node()), script], install.NODE)


def _framework(name: str) -> Client:
    module = f"tests.conformance.frameworks.{name}"
    run = _program(lambda: [str(install.python(name)), "-m", module], install.ROOT)
    return Client(name, run, (), name)


WORDS_ARE_DEMANDED = ("test_tool_calling", "test_agent_loop")
"""Tests of LangChain's suite (and those whose names begin so) that want certain calls of a model that may
call or not, which the demo model makes by chance if at all."""
WORDS = (
    *[call("magic_function", input=3)] * 6,
    *[call("magic_function_no_args")] * 2,
    *(call("get_weather", location="San Francisco, CA"), "It's sunny.") * 2,
)
"""The answers for these tests, in their order: two models invoked and streamed, one of them by async too."""


def _langchain_tests(servers: Servers) -> list[Row]:
    demanded = " or ".join(WORDS_ARE_DEMANDED)
    rows = _langchain_suite(servers, {}, f"not ({demanded})")
    directory = servers.directory / "words"
    directory.mkdir()
    with scripted(directory, servers.model, *WORDS) as told:
        there = {"CONFORMANCE_URL": f"{told.url}/v1", "CONFORMANCE_TOLD": "1"}
        return rows + _langchain_suite(servers, there, demanded)


def _langchain_suite(servers: Servers, more: dict[str, str], tests: str) -> list[Row]:
    """The tests that the expression names, with `more` in their environment."""
    report = servers.directory / "langchain.xml"
    folder = install.HERE / "frameworks"
    subprocess.run(
        [
            *(install.python("langchain"), "-m", "pytest", "-q", f"--junitxml={report}", "-k", tests),
            *("-p", "no:cacheprovider", "-c", folder / "langchain.ini", folder / "langchain_suite.py"),
        ],
        env={**servers.environment(), **more},
        stdout=subprocess.DEVNULL,
        timeout=PATIENCE_S,
        check=False,
    )
    rows: list[Row] = []
    for case in ET.parse(report).iter("testcase"):
        fault = next((child for child in case if child.tag in ("failure", "error")), None)
        if fault is not None:
            rows.append((case.get("name", ""), False, fault.get("message", "")))
        elif case.find("skipped") is None:
            rows.append((case.get("name", ""), True, ""))
    return rows


def _comply(form: str) -> Callable[[Servers], list[Row]]:
    def run(servers: Servers) -> list[Row]:
        wait = ("--timeout", "600")  # for each request: a summary has up to 4096 tokens
        program = install.python("llm_comply").with_name("llm-comply")
        done = subprocess.run(
            [
                program,
                "-u",
                servers.url,
                "-k",
                "none",
                "-m",
                servers.model,
                "--format",
                form,
                "--json",
                *wait,
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        results = json.loads(done.stdout)["results"]
        return [
            (one["id"], one["status"] == "passed", "; ".join(one.get("errors", [])))
            for one in results
            if one["status"] != "skipped"
        ]

    return run


def _agent(name: str, turns: tuple[Turn, ...], package: str, installed_as: str = "node") -> Client:
    def run(servers: Servers) -> list[Row]:
        return coding_agents.drive(turns, servers.directory)

    return Client(name, run, (package,), installed_as, len(turns))


CLIENTS = (
    Client("openai (Python)", _in_python(openai_python.features), ("openai",)),
    Client("openai (Node)", _node("openai.mjs"), ("openai",), "node"),
    Client("@ai-sdk/openai-compatible", _node("ai-sdk.mjs"), ("@ai-sdk/openai-compatible", "ai"), "node"),
    Client("anthropic (Python)", _in_python(anthropic_python.features), ("anthropic",)),
    Client("anthropic (Node)", _node("anthropic.mjs"), ("@anthropic-ai/sdk",), "node"),
    _agent("Codex", coding_agents.CODEX, "@openai/codex"),
    _agent("Claude Code", coding_agents.CLAUDE_CODE, "@anthropic-ai/claude-code"),
    _agent("opencode", coding_agents.OPENCODE, "opencode-ai"),
    _agent("aider", coding_agents.AIDER, "aider-chat", "aider"),
    _agent("Cline", coding_agents.CLINE, "cline"),
    _agent("Continue", coding_agents.CONTINUE, "@continuedev/cli"),
    Client("@ai-sdk/openai", _node("ai-sdk-openai.mjs"), ("@ai-sdk/openai", "ai"), "node"),
    replace(_framework("openai_agents"), name="OpenAI Agents SDK", packages=("openai-agents",)),
    replace(_framework("instructor"), packages=("instructor",)),
    replace(_framework("pydantic_ai"), name="Pydantic AI", packages=("pydantic-ai-slim",)),
    replace(
        _framework("llama_index"),
        name="LlamaIndex",
        packages=("llama-index-core", "llama-index-llms-openai-like"),
    ),
    replace(
        _framework("langchain"),
        name="LangChain (Python)",
        packages=("langchain", "langchain-openai", "langchain-anthropic"),
    ),
    replace(_framework("litellm"), name="LiteLLM", packages=("litellm",), at_least=5),
    Client("langchain-tests", _langchain_tests, ("langchain-tests", "langchain-openai"), "langchain", 30),
    Client("LangChain (JavaScript)", _node("langchain.mjs"), ("langchain", "@langchain/openai"), "node"),
    Client("llm-comply openai-chat", _comply("openai-chat"), ("llm-comply",), "llm_comply"),
    Client("llm-comply open-responses", _comply("open-responses"), ("llm-comply",), "llm_comply"),
    Client("Open WebUI", open_webui.run, ("open-webui",), "open_webui", 5),
)
