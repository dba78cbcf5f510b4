"""Codex runs a whole turn against a started server whose engine is told what to say.

It asks, gets a call of a function and one of a namespace, executes both, and ends with the answer. Skipped
where codex is not installed: tests/conformance/setup.sh installs it.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import RunningServer, serve

CODEX = shutil.which("codex", path=Path(__file__).parent / "node" / "node_modules" / ".bin")
pytestmark = pytest.mark.skipif(CODEX is None, reason="codex is not installed")

MODEL = "scripted"
SAID = "The file says 42."


def call(name: str, **arguments: str) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


SCRIPT = [
    "I look into it." + call("exec_command", cmd="echo 4$((1 + 1)) > told.txt"),
    call("multi_agent_v1__close_agent", target="nobody"),
    SAID,
]


def run_codex(server: RunningServer, directory: Path) -> subprocess.CompletedProcess[str]:
    home, work = directory / "home", directory / "work"
    home.mkdir()
    work.mkdir()
    (home / "config.toml").write_text(
        f'''model = "{MODEL}"
model_provider = "here"
[model_providers.here]
name = "here"
base_url = "{server.url}/v1"
wire_api = "responses"
'''
    )
    assert CODEX is not None
    return subprocess.run(
        [CODEX, "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "Look."],
        cwd=work,
        env={**os.environ, "CODEX_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_turn_with_calls_and_an_answer(tmp_path: Path) -> None:
    settings = {
        "served_model_name": MODEL,
        "synthetic": {"ttft": 0, "itl": 0, "max_seq_len": 32768, "script": SCRIPT},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with serve("--config", str(tmp_path / "config.yaml"), "--engine", "synthetic") as server:
        done = run_codex(server, tmp_path)
        requests = server.metric("model_requests_total")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(SAID)
    assert (tmp_path / "work" / "told.txt").read_text() == "42\n", "the call was executed"
    assert "invalid agent id nobody" in done.stderr, "the function was found in its namespace"
    assert requests >= len(SCRIPT)
    log = "".join(server.stdout + server.stderr)
    assert re.search(r"ignored .*tools\[\d+\] \(web_search\)", log)
