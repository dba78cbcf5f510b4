"""A Chromium of the system, and the page at `/` in it."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
AXE = Path(__file__).parent / "node" / "node_modules" / "axe-core" / "axe.min.js"
PATIENCE_MS = 30_000


def chromium_path() -> str | None:
    """The path of a Chromium, if there is one. `CHROMIUM` in the environment wins."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def chromium() -> str:
    """The path of a Chromium. Skips the test where there is none."""
    found = chromium_path()
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium, or CHROMIUM=PATH")
    return found


@contextmanager
def launched() -> Iterator[Any]:
    """A headless browser. Leave no test that uses asyncio between its start and its end: Playwright's
    synchronous API keeps an event loop in this thread.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium's sandbox does not work for root
    path = chromium()
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=sandbox)
        yield browser
        browser.close()


class App:
    """The page in a fresh profile. `complaints`: errors and warnings of the console, of the
    Content-Security-Policy too; `expected` are those that a test provokes.
    """

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.url = url
        self.complaints: list[str] = []
        self.expected: list[str] = []
        self.outside: list[str] = []
        """Requests to anywhere but the server."""
        options = {"viewport": {"width": 1240, "height": 800}, "locale": "en-GB", **options}
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self._new_page()

    def _new_page(self) -> Any:
        page = self.context.new_page()
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._on_request)
        return page

    def another_tab(self) -> App:
        """The page once more in the same profile, which ends with this one."""
        other = copy.copy(self)
        other.page = self._new_page()
        return other.open()

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} {message.location.get('url', '')}")

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", f"blob:{self.url}")):
            self.outside.append(request.url)

    def open(self, view: str = "") -> App:
        """Load the page, and wait until it knows the server."""
        self.page.goto(f"{self.url}/{view}")
        self.page.wait_for_selector("#model option", state="attached")
        return self

    def close(self) -> None:
        """End, and fail if the browser had anything to complain about."""
        self.context.close()
        unexpected = [one for one in self.complaints if not any(part in one for part in self.expected)]
        assert not unexpected
        assert not self.outside

    def send(self, text: str, *, wait: bool = True) -> None:
        """Send a message; wait for the end of the answer."""
        self.page.fill("#composer-input", text)
        self.page.press("#composer-input", "Enter")
        if wait:
            self.wait_for_answer()

    def wait_for_answer(self) -> None:
        self.page.wait_for_selector("#send:visible")

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements of a selector."""
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]

    def answers(self) -> list[str]:
        return self.texts(".assistant .text")

    def wait_for(self, expression: str) -> Any:
        """Wait until an expression of JavaScript is true. Returns its value."""
        return self.page.wait_for_function(f"() => {expression}").json_value()

    def focused(self) -> str:
        """The id of the element that has the focus, or its label."""
        return str(
            self.page.evaluate(
                "document.activeElement.id || document.activeElement.getAttribute('aria-label')"
            )
        )

    def setting(self, name: str, value: str) -> None:
        """Set a field of the settings, whose panel is open."""
        self.page.fill(f"#option-{name}", value)

    def example(self, section: str) -> None:
        """Put the example into a section of the settings, whose panel is open."""
        self.page.click(f"#settings summary:has-text('{section}')")
        self.page.click(f"#settings details:has-text('{section}') button")

    def accessibility(self) -> list[str]:
        """What axe-core finds in the page as it is, serious or worse."""
        if not AXE.exists():
            pytest.skip("axe-core is not installed: make test-web")
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {one['help']}: {json.dumps([node['html'][:200] for node in one['nodes'][:3]])}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]
