"""`generate` as a part of a pipe: the text alone on standard output, held to a schema."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCHEMA = {"enum": ["yes", "no", "as you like"]}


def generate(model: Path, *flags: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trtllm_openai", "generate", "--model", str(model), *flags]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)


def test_a_prompt_from_a_pipe_and_a_schema_from_a_file(few_layers: Path, tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    flags = ("--json", str(file), "--seed", "3", "--max-tokens", "60", "--log-level", "warning")
    done = generate(few_layers, *flags, stdin="Is it so? Answer in JSON:")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1, "the number of tokens, and their rate"
    assert json.loads(done.stdout) in SCHEMA["enum"]


@pytest.mark.slow
def test_a_schema_that_cannot_be_held(few_layers: Path) -> None:
    refused = generate(few_layers, "--json", '{"not": {}}', "x")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "not cannot be enforced" in refused.stderr
    assert generate(few_layers, "--json", "[1]", "x").returncode == 2
