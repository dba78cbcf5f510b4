"""Tools that are set up on a server: what they are told, with programs of their names in their place."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import python_path
from tests.e2e.conftest import RunningServer, serve
from trtllm_openai.commands.launch_setups import TOOLS, Server

TOOL = """#!/usr/bin/env python3
import json, os, sys
print(json.dumps([sys.argv[1:], dict(os.environ)]))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serve("--engine", "synthetic", "--served-model-name", "m,other", "--api-key", "sk-x") as running:
        yield running


def launch(*words: str, home: Path, key: str = "sk-x") -> subprocess.CompletedProcess[str]:
    tools = home / "bin"
    tools.mkdir(exist_ok=True)
    for name in TOOLS:
        if name != "aider":
            (tools / name).write_text(TOOL.replace("/usr/bin/env python3", sys.executable))
            (tools / name).chmod(0o755)
    return subprocess.run(
        [sys.executable, "-m", "trtllm_openai", "launch", *words],
        env={
            "PATH": f"{tools}:/usr/bin:/bin",
            "PYTHONPATH": python_path(),
            "XDG_STATE_HOME": str(home),
            "TRTLLM_OPENAI_API_KEY": key,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_each_tool_is_started_on_the_server(server: RunningServer, tmp_path: Path) -> None:
    told = {}
    for tool in ("codex", "claude", "opencode", "open-webui"):
        done = launch(tool, "--url", f"{server.url}/v1", "--", "-p", "Hi", home=tmp_path)
        assert done.returncode == 0, done.stderr
        arguments, told[tool] = json.loads(done.stdout)
        assert arguments[-2:] == ["-p", "Hi"]
    state = tmp_path / "trtllm-openai"
    codex = tomllib.loads((state / "codex" / "config.toml").read_text())
    assert told["codex"]["CODEX_HOME"] == str(state / "codex")
    assert (codex["model"], codex["model_context_window"]) == ("m", 8192)
    provider = codex["model_providers"][codex["model_provider"]]
    assert (provider["base_url"], provider["wire_api"]) == (f"{server.url}/v1", "responses")
    assert told["codex"][provider["env_key"]] == "sk-x"
    assert told["claude"]["ANTHROPIC_BASE_URL"] == server.url
    assert told["claude"]["ANTHROPIC_AUTH_TOKEN"] == "sk-x"
    opencode = json.loads(Path(told["opencode"]["OPENCODE_CONFIG"]).read_text())
    assert opencode["model"] == "here/m"
    assert opencode["provider"]["here"]["options"]["baseURL"] == f"{server.url}/v1"
    assert told["open-webui"]["OPENAI_API_BASE_URL"] == f"{server.url}/v1"


def test_print_is_a_script_without_the_key_that_does_the_same(server: RunningServer, tmp_path: Path) -> None:
    flags = ("opencode", "--url", server.url, "--model", "other", "--print")
    done = launch(*flags, home=tmp_path)
    assert "sk-x" not in done.stdout
    assert not (tmp_path / "trtllm-openai").exists()
    ran = subprocess.run(
        ["bash", "-c", done.stdout],
        env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "TRTLLM_OPENAI_API_KEY": "sk-x"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    _, environment = json.loads(ran.stdout)
    assert environment["TRTLLM_OPENAI_API_KEY"] == "sk-x"
    assert json.loads(Path(environment["OPENCODE_CONFIG"]).read_text())["model"] == "here/other"


def test_what_is_missing_is_said(server: RunningServer, tmp_path: Path) -> None:
    for words, key, said in (
        (("aider", "--url", server.url), "sk-x", "aider is not installed: pip install aider-chat"),
        (("codex", "--url", server.url, "--model", "x"), "sk-x", "has no model x; it has m, other"),
        (("codex", "--url", server.url), "", "Give it with --api-key or TRTLLM_OPENAI_API_KEY"),
    ):
        done = launch(*words, home=tmp_path, key=key)
        assert (done.returncode, said in done.stderr) == (1, True), done.stderr


def test_names_with_quotes_stay_valid(tmp_path: Path) -> None:
    setup = TOOLS["codex"](Server("http://h:1", "k", 'a"b\\c'), tmp_path)
    assert tomllib.loads(setup.files["config.toml"])["model"] == 'a"b\\c'
