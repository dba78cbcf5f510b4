"""Real clients against a started server on the demo model.

The official Python clients always; the others with CONFORMANCE=1, after tests/conformance/setup.sh: that is
what `make conformance` does, and it writes docs/conformance.md.
"""

import json
import os
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from tests.conformance import anthropic_python, openai_python, page
from tests.conformance.page import Row
from tests.e2e.conftest import RunningServer

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
VENV = ROOT / ".venv-conformance" / "bin"
FULL = os.environ.get("CONFORMANCE") == "1"

TOO_SMALL = "the demo model is too small"
NO_IMAGES = "the model does not support images"
NO_MODEL = "expects 400 without `model`; this server defaults to the served model"
KNOWN = {
    "langchain-tests: test_json_mode": f"{TOO_SMALL}: it returns JSON with other keys than instructed",
    "langchain-tests: test_agent_loop[model0]": f"{TOO_SMALL}: it answers without calling the tool",
    "langchain-tests: test_agent_loop[model1]": f"{TOO_SMALL}: it answers without calling the tool",
    "llm-comply openai-chat: chat-image-input": NO_IMAGES,
    "llm-comply openai-chat: chat-error-handling": NO_MODEL,
    "llm-comply open-responses: image-input": NO_IMAGES,
    "llm-comply open-responses: error-handling": NO_MODEL,
    "llm-comply open-responses: compact-missing-model": NO_MODEL,
}
"""Expected failures with their reasons; any other failure fails the test."""


def in_python(
    features: Callable[[str, str], AbstractContextManager[dict[str, Callable[[], None]]]],
) -> Callable[[str, str], list[Row]]:
    def run(url: str, model: str) -> list[Row]:
        rows: list[Row] = []
        with features(url, model) as checks:
            for name, check in checks.items():
                try:
                    check()
                except Exception as error:  # every kind of failure is a row
                    rows.append((name, False, f"{type(error).__name__}: {error}"))
                else:
                    rows.append((name, True, ""))
        return rows

    return run


def node(script: str) -> Callable[[str, str], list[Row]]:
    def run(url: str, model: str) -> list[Row]:
        done = subprocess.run(
            ["node", script],
            cwd=HERE / "node",
            env={**os.environ, "CONFORMANCE_URL": url, "CONFORMANCE_MODEL": model},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0, done.stderr
        return [(row["feature"], row["ok"], row["detail"]) for row in rows]

    return run


def langchain(url: str, model: str) -> list[Row]:
    report = ROOT / ".venv-conformance" / "langchain.xml"
    report.unlink(missing_ok=True)
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", f"--junitxml={report}"]
    subprocess.run(
        [VENV / "python", *command, "-c", HERE / "langchain.ini", HERE / "langchain_suite.py"],
        env={**os.environ, "CONFORMANCE_URL": url, "CONFORMANCE_MODEL": model},
        stdout=subprocess.DEVNULL,
        timeout=280,
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


def comply(form: str) -> Callable[[str, str], list[Row]]:
    def run(url: str, model: str) -> list[Row]:
        done = subprocess.run(
            [VENV / "llm-comply", "-u", url, "-k", "none", "-m", model, "--format", form, "--json"],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        results = json.loads(done.stdout)["results"]
        return [
            (one["id"], one["status"] == "passed", "; ".join(one.get("errors", [])))
            for one in results
            if one["status"] != "skipped"
        ]

    return run


CLIENTS: dict[str, Callable[[str, str], list[Row]]] = {
    "openai (Python)": in_python(openai_python.features),
    "anthropic (Python)": in_python(anthropic_python.features),
}
if FULL:
    CLIENTS |= {
        "openai (Node)": node("openai.mjs"),
        "@ai-sdk/openai-compatible": node("ai-sdk.mjs"),
        "langchain-tests": langchain,
        "llm-comply openai-chat": comply("openai-chat"),
        "llm-comply open-responses": comply("open-responses"),
    }


@pytest.fixture(scope="module")
def results() -> Iterator[dict[str, list[Row]]]:
    """Results of each client; written to the page when all of them ran."""
    found: dict[str, list[Row]] = {}
    yield found
    if FULL and len(found) == len(CLIENTS):
        page.write(found)


@pytest.mark.parametrize("client", CLIENTS)
def test_client(server: RunningServer, results: dict[str, list[Row]], client: str) -> None:
    model = httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"]
    rows = CLIENTS[client](f"{server.url}/v1", model)
    assert len(rows) > 5
    named = [(test, ok, KNOWN.get(f"{client}: {test}", "") if not ok else "") for test, ok, _ in rows]
    results[client] = named
    failed = {test: why for test, ok, why in rows if not ok and f"{client}: {test}" not in KNOWN}
    assert not failed
