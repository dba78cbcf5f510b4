"""axe-core finds nothing serious in any view, in either colour scheme."""

from collections.abc import Callable

import pytest

from tests.web.browser import App
from tests.web.conftest import Scripted


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_every_view(visit: Callable[..., App], scripted: Scripted, scheme: str) -> None:
    app = visit(scripted.url, color_scheme=scheme, reduced_motion="reduce").open()
    page = app.page
    found = {"empty": app.accessibility()}
    page.click("#panel-toggle")
    app.example("Tools")
    page.click("#settings summary:has-text('Structured')")
    scripted.says("markdown")
    app.send("What is the capital?")
    scripted.says("call")
    app.send("How is the weather?")
    found["chat"] = app.accessibility()
    page.locator(".user").nth(0).hover()
    page.locator(".user").nth(0).locator("[aria-label='Edit message']").click()
    found["edit"] = app.accessibility()
    page.keyboard.press("Escape")
    for button, dialog in (("#key-button", "key"), ("#code-button", "code"), ("#help-button", "help")):
        page.click(button)
        found[dialog] = app.accessibility()
        page.keyboard.press("Escape")
    page.evaluate(
        """async () => {
            const { showTokens } = await import('/web/tokens.js');
            const place = document.createElement('div');
            document.querySelector('.assistant').append(place);
            showTokens(place, [['a', -0.01, [['a', -0.01], ['b', -5]]], [' b', -9, []]]);
            place.querySelector('.token').focus();
        }"""
    )
    found["tokens"] = app.accessibility()
    page.click("#to-status")
    page.wait_for_selector(".card tbody tr")
    found["status"] = app.accessibility()
    page.click("#language")
    found["status in Korean"] = app.accessibility()
    assert {view: faults for view, faults in found.items() if faults} == {}


def test_a_narrow_screen(visit: Callable[..., App], scripted: Scripted) -> None:
    app = visit(scripted.url, viewport={"width": 360, "height": 640}).open()
    found = {"chat": app.accessibility()}
    for button in ("#menu", "#panel-toggle"):
        app.page.click(button)
        found[button] = app.accessibility()
    assert {view: faults for view, faults in found.items() if faults} == {}
