"""What README tells a newcomer to type, typed, and what it prints."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.conftest import python_path
from tests.e2e.conftest import RunningServer
from trtllm_openai.cli import main
from trtllm_openai.commands import SUMMARIES

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
URL = "http://127.0.0.1:8000"
IN_MAKEFILE = ("make",)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_shell_commands_run_as_written(demo_server: RunningServer, tmp_path: Path) -> None:
    outputs = []
    for command in re.sub(r"\\\n\s*", "", "".join(blocks("sh"))).splitlines():
        words = shlex.split(command, comments=True)
        if not words:
            continue
        if words[0] in IN_MAKEFILE:
            makefile = (ROOT / "Makefile").read_text()
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in words[1:])
            continue
        words = [word.replace(URL, demo_server.url) for word in words]
        if words[0] == ".venv/bin/trtllm-openai":
            words = [sys.executable, "-m", "trtllm_openai", *words[1:], "--url", demo_server.url]
        env = {**os.environ, "PYTHONPATH": python_path()}
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=True)
        outputs.append(done.stdout)
    answer, chat, launch = outputs
    (shown,) = blocks("json")
    expected, said = json.loads(shown), json.loads(answer)
    assert said["choices"][0]["message"]["content"] == expected["choices"][0]["message"]["content"]
    assert set(said) >= set(expected)
    assert chat == "The capital of South Korea is Seoul.\n"
    assert "CODEX_HOME" in launch


def test_the_python_sample_prints_an_answer(demo_server: RunningServer) -> None:
    (program,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", program.replace(URL, demo_server.url)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "The capital of South Korea is Seoul."


def test_every_command_is_named_with_its_exit_statuses() -> None:
    for verb in SUMMARIES:
        assert f"`{verb}`" in README or f"trtllm-openai {verb}" in README, verb
    assert main([]) == 2
