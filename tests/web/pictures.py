"""`python -m tests.web.pictures [chat] [status]` makes the pictures of the documents, in docs/images."""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.e2e.conftest import ROOT, serve
from tests.e2e.scripted import call
from tests.web.browser import App, launched

IMAGES = ROOT / "docs" / "images"
SIZE = {"width": 1200, "height": 780}
SCRIPT = [
    "<think>Three facts are enough, and a greeting as code.</think>Here are three facts about **Seoul**:\n\n"
    "1. It lies on the *Han River*.\n2. Some 9.4 million people live there.\n"
    "3. Its subway has more than 300 stations.\n\n"
    '```python\ndef greet(name: str) -> str:\n    return f"안녕하세요, {name}!"\n```\n',
    call("get_weather", city="Seoul"),
    "It is 21 °C and sunny in Seoul.",
]


def chat(browser: Any, url: str) -> None:
    """A conversation with a tool, in both colour schemes and on a narrow screen in Korean."""
    app = App(browser, url, viewport=SIZE, device_scale_factor=1.25)
    app.open()
    app.page.click("#panel-toggle")
    app.setting("system", "You are a helpful guide to Korea.")
    app.setting("temperature", "0.7")
    app.example("Tools")
    app.send("Tell me three facts about Seoul.")
    app.send("And the weather?")
    app.page.fill(".call textarea", '{"temperature": 21, "sky": "clear"}')
    app.page.click(".calls button[type=submit]")
    app.wait_for("document.querySelectorAll('.assistant').length === 3")
    app.wait_for_answer()
    app.page.evaluate("document.querySelector('#settings').scrollTop = 0")
    app.page.evaluate("document.querySelector('#thread').scrollTop = 0")
    save(app, "chat")
    app.page.click("#theme")
    app.page.click("#theme")
    save(app, "chat-dark")
    app.page.click("#panel-toggle")
    app.page.click("#language")
    app.page.set_viewport_size({"width": 390, "height": 780})
    app.page.evaluate("document.querySelector('#thread').scrollTop = 0")
    save(app, "chat-narrow")
    app.close()


def status(browser: Any, url: str) -> None:
    """The status view under a load that comes and goes."""
    ended = threading.Event()

    def ask(number: int) -> None:
        with httpx.Client(timeout=60) as client:
            while not ended.is_set():
                body = {"prompt": "Tell me " * (5 + number), "max_tokens": 60 + 40 * number}
                client.post(f"{url}/v1/completions", json=body)
                ended.wait(1.5 * number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    app = App(browser, url, viewport={**SIZE, "height": 980}, device_scale_factor=1.25)
    app.open("#status")
    app.page.wait_for_timeout(100_000)
    save(app, "status")
    ended.set()
    for thread in threads:
        thread.join()
    app.close()


def save(app: App, name: str) -> None:
    """Write a picture without the colours that nobody would miss."""
    app.page.mouse.move(5, 400)
    app.page.wait_for_timeout(400)
    app.page.screenshot(path=IMAGES / f"{name}.png")
    print(IMAGES / f"{name}.png", (IMAGES / f"{name}.png").stat().st_size)


def main(which: list[str]) -> None:
    IMAGES.mkdir(exist_ok=True)
    settings = {
        "served_model_name": "my-model",
        "reasoning_parser": "think",
        "synthetic": {"ttft": 0.05, "itl": 0.012, "max_seq_len": 8192, "script": SCRIPT},
    }
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        config = Path(folder) / "pictures.yaml"
        config.write_text(yaml.safe_dump(settings))
        if "chat" in which:
            with serve("--config", str(config), "--engine", "synthetic", "--log-level", "error") as running:
                chat(browser, running.url)
        if "status" in which:
            with serve("--log-level", "error") as running:
                status(browser, running.url)


if __name__ == "__main__":
    main(sys.argv[1:] or ["chat", "status"])
