"""The programs of docs/recipes.md, as they are there, each with the client that it is for.

With CONFORMANCE=1, after `tests.conformance.install`: `make conformance`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conformance import install
from tests.conformance.clients import Servers
from tests.e2e.conftest import RunningServer
from tests.e2e.documented import ROOT, examples

PAGE = ROOT / "docs" / "recipes.md"
URL = "http://127.0.0.1:8000"
PROGRAMS = {
    "langchain_openai": "langchain",
    "llama_index": "llama_index",
    "litellm": "litellm",
    "@ai-sdk/openai-compatible": "node",
}
"""What a program imports, and what `install` calls its client."""
LANGUAGES = ("python", "js")


def recipe(imported: str) -> tuple[str, str]:
    """The language and the text of the program that imports this."""
    (found,) = [
        (one.language, one.text)
        for one in examples(PAGE)
        if one.language in LANGUAGES and f"from {imported}" in one.text.replace('"', "")
    ]
    return found


def test_every_program_of_the_page_is_run() -> None:
    assert len([one for one in examples(PAGE) if one.language in LANGUAGES]) == len(PROGRAMS)
    assert all(recipe(imported) for imported in PROGRAMS)


@pytest.mark.skipif(os.environ.get("CONFORMANCE") != "1", reason="needs the clients: make conformance")
@pytest.mark.parametrize("imported", PROGRAMS)
def test_a_recipe(imported: str, server: RunningServer, tmp_path: Path) -> None:
    client = PROGRAMS[imported]
    if reason := install.missing(client):
        pytest.skip(reason)
    language, text = recipe(imported)
    # Node finds its packages from where the program is.
    program = (
        install.NODE if language == "js" else tmp_path
    ) / f"recipe.{'mjs' if language == 'js' else 'py'}"
    program.write_text(text.replace(URL, server.url))
    servers = Servers(f"{server.url}/v1", "", "", tmp_path)
    interpreter = install.node() if language == "js" else install.python(client)
    try:
        done = subprocess.run(
            [interpreter, program],
            env=servers.environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        program.unlink()
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Seoul" in done.stdout
