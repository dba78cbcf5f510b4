"""A server that is told what to say, and pages in a browser beside it."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.conftest import RunningServer, serve, server
from tests.e2e.scripted import call
from tests.web.browser import App, launched

__all__ = ["server"]

ATTACK = (
    "<script>window.attacked = 1</script><img src=x onerror='window.attacked = 2'>\n\n"
    "[link](javascript:window.attacked=3) <a href='https://example.org'>tag</a> ![pixel](https://example.org/p.png)\n\n"
    "| <b>cell</b> | `<i>code</i>` |\n|---|---|\n| <svg onload=alert(1)> | **<u>bold</u>** |\n\n"
    "```html\n<script>window.attacked = 4</script>\n```\n"
)
MARKDOWN = (
    "<think>They ask about Korea.</think>The capital is **Seoul**, says [a page](https://example.org/seoul):\n\n"
    "1. one\n2. two\n   - inner\n\n```python\nprint('안녕')\n```\n\n"
    "| City | People |\n|---|---|\n| Busan | 3.3 M |\n"
)
SCRIPT = {
    "markdown": MARKDOWN,
    "call": call("get_weather", city="Seoul"),
    "weather": "It is 21 degrees in Seoul.",
    "attack": ATTACK,
    "long": "word " * 600,
    "again": "Another answer.",
}


class Scripted:
    """A server whose next answer is one of `SCRIPT`."""

    def __init__(self, running: RunningServer) -> None:
        self.running = running
        self.url = running.url

    def says(self, name: str) -> None:
        """Make `name` the text of the next request. No request may be running."""
        self.running.wait(lambda: self.running.metric("requests_running") == 0, 20)
        metrics = httpx.get(f"{self.url}/metrics", timeout=30).text
        finished = re.findall(r"^trtllm_openai_sequences_total{.*} (\S+)$", metrics, re.MULTILINE)
        done = round(sum(map(float, finished)))
        for _ in range((list(SCRIPT).index(name) - done) % len(SCRIPT)):
            body = {"prompt": "skip", "max_tokens": 1}
            httpx.post(f"{self.url}/v1/completions", json=body, timeout=30).raise_for_status()


@contextmanager
def scripted_server(directory: Path) -> Iterator[Scripted]:
    """It makes 100 tokens a second."""
    settings = {
        "served_model_name": "my-model",
        "reasoning_parser": "think",
        "synthetic": {"ttft": 0.05, "itl": 0.01, "max_seq_len": 8192, "script": list(SCRIPT.values())},
    }
    config = directory / "scripted.yaml"
    config.write_text(yaml.safe_dump(settings))
    with serve("--config", str(config), "--engine", "synthetic", "--log-level", "warning") as running:
        yield Scripted(running)


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripted]:
    with scripted_server(tmp_path_factory.mktemp("web")) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as started:
        yield started


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., App]]:
    """Makes pages. At the test's end each must be without complaints."""
    opened: list[App] = []

    def visit(url: str, **options: Any) -> App:
        opened.append(App(browser, url, **options))
        return opened[-1]

    yield visit
    for app in opened:
        app.close()


@pytest.fixture
def app(visit: Callable[..., App], scripted: Scripted) -> App:
    """The page of the scripted server."""
    return visit(scripted.url).open()
