"""The page with what only a server has: keys, status, an engine with log-probabilities and guides."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import RunningServer, serve
from tests.web.browser import App
from trtllm_openai.api.auth import make_key

Keyed = tuple[str, dict[str, str]]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """The URL of a server with keys, and a key of each scope."""
    made = {scope: make_key(scope, scope) for scope in ("api", "admin")}
    made["both"] = make_key("both", "api,admin")
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("\n".join(line for _, line in made.values()))
    keys = {name: key for name, (key, _) in made.items()}
    with serve("--engine", "synthetic", "--api-keys-file", str(file), "--log-level", "error") as running:
        yield running.url, keys


def give_key(app: App, key: str) -> None:
    """Give the key that the page asks for."""
    app.page.wait_for_selector("#key-dialog[open]")
    app.page.fill("#key-input", key)
    app.page.press("#key-input", "Enter")


def test_a_key_is_asked_for_and_forgotten_with_the_tab(visit: Callable[..., App], keyed: Keyed) -> None:
    url, keys = keyed
    app = visit(url)
    app.expected.append("401")
    page = app.page
    page.goto(url)
    give_key(app, "sk-wrong")
    page.wait_for_selector("#key-problem:has-text('invalid')")
    give_key(app, keys["api"])
    page.wait_for_selector("#model option", state="attached")
    app.send("Hi", wait=False)
    page.wait_for_selector(".assistant .stats span")
    page.keyboard.press("Escape")
    app.wait_for_answer()
    kept = "[sessionStorage.length, Object.values(localStorage).join()]"
    assert page.evaluate(kept) == [1, ""]
    page.click("#code-button")
    assert keys["api"] not in page.inner_text("body")
    page.keyboard.press("Escape")
    page.click("#key-button")
    page.check("#key-remember")
    give_key(app, keys["api"])
    app.wait_for(f"Object.values(localStorage).join() === '{keys['api']}'")
    assert page.evaluate(kept) == [0, keys["api"]]
    page.click("#key-button")
    page.click("#key-forget")
    assert page.evaluate(kept) == [0, ""]


def test_who_gives_no_key_is_not_asked_again_and_again(visit: Callable[..., App], keyed: Keyed) -> None:
    url, keys = keyed
    app = visit(url)
    app.expected.append("401")
    page = app.page
    page.goto(f"{url}/#status")
    page.wait_for_selector("#key-dialog[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector(".alert:has-text('API key is required')")
    for _ in range(2):
        with page.expect_response("**/status") as polled:
            pass
        assert polled.value.status == 401
    assert page.locator("#key-dialog").is_hidden()
    page.click("#to-chat")
    page.wait_for_selector(".empty:has-text('API key is required')")
    page.click("#key-button")
    give_key(app, keys["both"])
    page.wait_for_selector("#model option", state="attached")
    page.click("#to-status")
    page.wait_for_selector(".status-head .badge.good")


def test_status_is_for_admins_and_shows_failures(visit: Callable[..., App], keyed: Keyed) -> None:
    url, keys = keyed
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {keys['api']}"}, timeout=60) as client:
        for timeout, status in ((0.001, 504), (60, 200)):
            body = {"prompt": "Hi", "max_tokens": 20, "timeout": timeout}
            assert client.post("/v1/completions", json=body).status_code == status
    app = visit(url)
    app.expected += ["401", "403"]
    page = app.page
    page.goto(f"{url}/#status")
    give_key(app, keys["api"])
    page.wait_for_selector(".alert:has-text('admin')")
    page.click(".alert button")
    give_key(app, keys["both"])
    page.wait_for_selector(".status-head .badge.good")
    assert page.locator(".alert").is_hidden()
    assert "observed" in page.inner_text("section.plot:has-text('Time to first token')")
    assert app.texts(".card tbody tr:has-text('POST /v1/completions') .badge") == ["504"]
    assert app.texts(".card:has-text('Runners') tbody tr")[0].split()[:2] == ["0", "ready"]


def test_status_shows_nodes_and_how_many_runners_are_wanted(visit: Callable[..., App], keyed: Keyed) -> None:
    """The page gets the report of a pool on several machines, in scaling, in place of its own server's."""
    url, keys = keyed
    app = visit(url)
    app.expected.append("401")
    page = app.page

    def scaled(route: Any) -> None:
        response = route.fetch()
        body = response.json()
        if response.ok:
            body["wanted"] = 3
            body["runners"] += [{**body["runners"][0], "index": 1, "state": "loading", "node": "10.83.0.11"}]
        route.fulfill(response=response, json=body)

    page.goto(f"{url}/#status")
    give_key(app, keys["both"])
    page.wait_for_selector(".status-head .badge.good")
    heading = "section.card:has-text('Runners') h2"
    rows = ".card:has-text('Runners') tbody tr"
    assert page.inner_text(heading).strip() == "Runners", "all of them are there"
    assert app.texts(rows)[0].split("\t")[:4] == ["0", "ready", "this machine", "CPU"]
    page.route("**/status", scaled)
    page.wait_for_selector(f"{heading}:has-text('1 of 3 wanted are ready')")
    assert app.texts(rows)[1].split("\t")[2] == "10.83.0.11"
    page.click("#language")
    page.wait_for_selector("section.card h2:has-text('필요한 3개 중 1개 준비됨')")
    assert "노드" in app.texts("section.card thead tr")[0]


def test_plots_follow_the_load(visit: Callable[..., App], keyed: Keyed) -> None:
    url, keys = keyed
    app = visit(url)
    app.expected.append("401")
    page = app.page
    page.goto(f"{url}/#status")
    give_key(app, keys["both"])
    page.wait_for_selector(".tile-value:not(:empty)")
    headers = {"authorization": f"Bearer {keys['api']}"}
    long = {"prompt": "Hi", "max_tokens": 8000, "stream": True}
    with (
        httpx.Client(timeout=60, headers=headers) as client,
        client.stream("POST", f"{url}/v1/completions", json=long) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        page.wait_for_selector(".tile:has-text('Sequences') .tile-value:has-text('1')")
        app.wait_for("parseFloat(document.querySelector('.tile-value').innerText) > 0")
        label = page.get_attribute("section.plot:has-text('Tokens per second') svg", "aria-label")
        assert label.startswith("Tokens per second, Generated: now ")
        box = page.locator("section.plot:has-text('Sequences') svg").bounding_box()
        page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 50)
        page.wait_for_selector("section.plot:has-text('Sequences') .cursor", state="attached")


def test_rates_and_quantiles(visit: Callable[..., App], keyed: Keyed) -> None:
    app = visit(keyed[0])
    app.expected.append("401")
    app.page.goto(keyed[0])
    rates, quantiles, nothing, above, steps = app.page.evaluate(
        """async () => {
            const { rates } = await import('/web/status.js');
            const { quantile, niceStep } = await import('/web/plots.js');
            const histogram = { bounds: [1, 2, 4], counts: [0, 2, 2, 0] };
            return [
                rates([0, 5, 10, 15, 20], [100, 150, 200, 20, 70]),
                [0.25, 0.5, 1].map((q) => quantile(histogram, q)),
                quantile({ bounds: [1], counts: [0, 0] }, 0.5),
                quantile({ bounds: [1], counts: [0, 3] }, 0.5),
                [niceStep(3, 3), niceStep(100, 3), niceStep(0.7, 3)],
            ];
        }"""
    )
    mean = pytest.approx(100 / 15)
    assert rates == [None, 10, 10, mean, mean], "the engine was restarted between the third and the fourth"
    assert quantiles == [1.5, 2, 4]
    assert (nothing, above) == (None, 1)
    assert steps == [1, 50, 0.5]


@pytest.mark.slow  # it needs an engine that computes
def test_tokens_and_a_schema(visit: Callable[..., App], server: RunningServer) -> None:
    app = visit(server.url).open()
    page = app.page
    page.click("#panel-toggle")
    page.check("#option-logprobs")
    app.setting("max_tokens", "40")
    app.setting("temperature", "0")
    app.example("Structured")
    app.send("A city?")
    text = page.locator(".assistant .text").text_content()
    assert text.startswith("{")
    if "Cut" not in app.texts(".stats")[0]:
        assert set(json.loads(text)) == {"name", "population"}
    page.click("[aria-label='Token probabilities']")
    tokens = page.locator(".token")
    written = "".join(tokens.all_text_contents())
    assert "".join(written.split()) == "".join(text.split())
    tokens.nth(1).hover()
    assert page.locator(".token-card tr").count() in (5, 6)
    page.mouse.move(0, 0)
    tokens.nth(0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.index") == "2"
    assert page.locator(".token-card").is_visible()
    assert page.locator(".token[tabindex='0']").count() == 1
    page.keyboard.press("Escape")
    assert page.locator(".token-card").is_hidden()
