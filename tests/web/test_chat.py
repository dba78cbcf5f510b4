"""Chat in a browser: what a person does, against a server that answers from a script."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.web.browser import App
from tests.web.conftest import Scripted

LAST = ".assistant:last-child"


def test_an_answer_streams_in_and_is_formatted(app: App, scripted: Scripted) -> None:
    scripted.says("markdown")
    app.send("What is the capital?", wait=False)
    growing = app.wait_for("document.querySelector('.assistant[aria-busy=true] .text')?.innerText.length")
    assert app.page.locator("#stop").is_visible()
    app.wait_for_answer()
    assert len(app.answers()[0]) > growing
    assert app.texts(".user .text") == ["What is the capital?"]
    page = app.page
    assert app.texts(".text strong") == ["Seoul"]
    assert page.get_attribute(".text a", "href") == "https://example.org/seoul"
    assert app.texts(".text ol > li > ul > li") == ["inner"]
    assert app.texts(".text pre code") == ["print('안녕')"]
    assert app.texts(".text td") == ["Busan", "3.3 M"]
    thinking = page.locator(".thinking")
    assert thinking.get_attribute("open") is None, "folded away"
    thinking.locator("summary").click()
    assert app.texts(".thinking p") == ["They ask about Korea."]
    stats = app.texts(".stats")[0]
    assert "tokens/s" in stats
    assert "first after" in stats
    said = page.locator("#announcer").all_inner_texts()[0]
    assert "The capital is" in said
    assert "Answer complete" in said


def test_markup_of_an_answer_stays_text(app: App, scripted: Scripted) -> None:
    scripted.says("attack")
    app.send("Attack!")
    text = app.page.locator(".assistant .text")
    shown = text.inner_text()
    for part in (
        "<script>window.attacked = 1</script>",
        "<img src=x onerror='window.attacked = 2'>",
        "[link](javascript:window.attacked=3)",
        "<a href='https://example.org'>tag</a>",
        "<b>cell</b>",
        "<i>code</i>",
        "<svg onload=alert(1)>",
        "<u>bold</u>",
        "<script>window.attacked = 4</script>",
    ):
        assert part in shown
    assert text.locator("script, img, b, i, u, svg:not(.icon)").count() == 0
    hrefs = [link.get_attribute("href") for link in text.locator("a").all()]
    assert hrefs == ["https://example.org/", "https://example.org/p.png"], "addresses, as links"
    assert {link.get_attribute("rel") for link in text.locator("a").all()} == {"noopener noreferrer"}
    app.page.reload()
    app.page.wait_for_selector(".assistant .text td")
    assert app.page.evaluate("window.attacked") is None


def test_the_policy_holds_and_its_violations_are_seen(app: App) -> None:
    app.page.evaluate(
        """() => {
            const script = document.createElement('script');
            script.textContent = 'window.attacked = 1';
            document.body.append(script);
            document.body.setAttribute('style', 'color: red');
        }"""
    )
    app.wait_for("true")
    assert app.page.evaluate("window.attacked") is None
    assert len([one for one in app.complaints if "Content Security Policy" in one]) == 2
    app.expected.append("Content Security Policy")


def test_stop_keeps_what_came_and_frees_the_engine(app: App, scripted: Scripted) -> None:
    scripted.says("long")
    app.send("Say much", wait=False)
    app.wait_for("document.querySelector('.assistant .text')?.innerText.length > 30")
    app.page.keyboard.press("Escape")
    app.wait_for_answer()
    length = len(app.answers()[0])
    assert 30 < length < len("word " * 600)
    assert "Stopped" in app.texts(".stats")[0]
    scripted.running.wait(lambda: scripted.running.metric("requests_running") == 0, 10)
    assert app.focused() == "composer-input"


def test_edit_and_retry(app: App, scripted: Scripted) -> None:
    page = app.page
    scripted.says("again")
    app.send("First question")
    scripted.says("weather")
    app.send("Second question")
    assert app.answers() == ["Another answer.", "It is 21 degrees in Seoul."]

    scripted.says("again")
    page.locator(".assistant").nth(1).locator("[aria-label='Answer again']").click()
    app.wait_for_answer()
    assert app.answers() == ["Another answer.", "Another answer."]

    page.locator(".assistant").nth(0).locator("[aria-label='Edit message']").click()
    page.fill(".assistant .edit textarea", "What it should have said")
    page.click(".assistant .edit button[type=submit]")
    assert app.answers() == ["What it should have said", "Another answer."]

    scripted.says("weather")
    page.locator(".user").nth(0).hover()
    page.locator(".user").nth(0).locator("[aria-label='Edit message']").click()
    page.keyboard.press("Escape")
    assert app.focused() == "Edit message"
    page.keyboard.press("Enter")
    page.fill(".user .edit textarea", "A better question")
    page.keyboard.press("Control+Enter")
    app.wait_for("document.querySelectorAll('.assistant').length === 1")
    app.wait_for_answer()
    assert app.texts(".user .text") == ["A better question"]
    assert app.answers() == ["It is 21 degrees in Seoul."]


def test_a_tool_is_tried_out(app: App, scripted: Scripted) -> None:
    page = app.page
    page.click("#panel-toggle")
    app.example("Tools")
    page.click("#panel-toggle")
    assert app.texts(".chip") == ["tools"]
    scripted.says("call")
    app.send("How is the weather?")
    assert app.texts(".call-name") == ["get_weather"]
    assert json.loads(app.texts(".call-arguments")[0]) == {"city": "Seoul"}
    with page.expect_request("**/v1/chat/completions") as sent:
        page.fill(".call textarea", "21 degrees")
        page.click(".calls button[type=submit]")
    app.wait_for("document.querySelectorAll('.assistant').length === 2")
    app.wait_for_answer()
    assert app.answers()[-1] == "It is 21 degrees in Seoul."
    assert app.texts(".call-result") == ["21 degrees"]
    assistant, tool = sent.value.post_data_json["messages"][-2:]
    (asked,) = assistant["tool_calls"]
    assert asked["function"]["name"] == "get_weather"
    assert tool == {"role": "tool", "tool_call_id": asked["id"], "content": "21 degrees"}
    page.click(".call [aria-label='Edit message']")
    assert page.input_value(".call textarea") == "21 degrees"
    assert page.locator(".assistant").count() == 1


def test_settings_are_sent_and_wrong_ones_are_not(app: App, scripted: Scripted) -> None:
    page = app.page
    page.click("#panel-toggle")
    app.setting("system", "Be brief.")
    app.setting("temperature", "0.5")
    app.setting("seed", "7")
    app.setting("stop", "END\nFIN")
    assert page.is_disabled("#option-min_p"), "the synthetic engine has none"
    scripted.says("again")
    with page.expect_request("**/v1/chat/completions") as sent:
        app.send("Hi")
    body = sent.value.post_data_json
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert (body["temperature"], body["seed"], body["stop"]) == (0.5, 7, ["END", "FIN"])
    assert "top_p" not in body

    page.click("#settings summary:has-text('Structured')")
    app.setting("schema", "{")
    app.send("Hello")
    assert "Not JSON" in page.inner_text("#problem-schema")
    page.wait_for_selector("#toast:has-text('Correct the settings first')")
    assert page.input_value("#composer-input") == "Hello", "it is not lost"
    app.setting("schema", "[]")
    assert page.inner_text("#problem-schema") == "An object is needed"

    app.setting("schema", '{"type": "object"}')
    app.expected.append("400")  # of the console: the engine has no guides
    page.press("#composer-input", "Enter")
    page.wait_for_selector(f"{LAST} .problem:visible")
    assert "response_format" in page.inner_text(f"{LAST} .problem")
    app.wait_for_answer()
    page.click("text=Reset all")
    assert page.input_value("#option-system") == ""


def test_conversations_stay_and_can_be_carried(
    app: App, scripted: Scripted, visit: Callable[..., App], tmp_path: Path
) -> None:
    page = app.page
    scripted.says("again")
    app.send("Keep this")
    page.keyboard.press("Alt+n")
    assert app.answers() == []
    scripted.says("weather")
    app.send("And this")
    page.reload()
    page.wait_for_selector(".conversation-link")
    assert app.texts(".conversation-link") == ["And this", "Keep this"]
    assert app.answers() == ["It is 21 degrees in Seoul."]
    page.click(".conversation-link:has-text('Keep this')")
    assert app.answers() == ["Another answer."]

    with page.expect_download() as download:
        page.click("#export")
    file = tmp_path / "kept.json"
    download.value.save_as(file)
    assert len(json.loads(file.read_text())["conversations"]) == 2

    page.click("[aria-label='Delete “Keep this”']")
    assert app.texts(".conversation-link") == ["And this"]
    page.click("#toast button")
    assert sorted(app.texts(".conversation-link")) == ["And this", "Keep this"]

    other = visit(scripted.url).open()
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"conversations": []}')
    other.page.set_input_files("#import-file", wrong)
    other.wait_for("document.getElementById('toast').innerText.includes('no conversations')")
    other.page.set_input_files("#import-file", file)
    other.page.wait_for_selector(".conversation-link >> nth=1")
    assert sorted(other.texts(".conversation-link")) == ["And this", "Keep this"]
    other.page.click(".conversation-link:has-text('And this')")
    assert other.answers() == ["It is 21 degrees in Seoul."]


def test_two_tabs_keep_the_same_conversations(app: App, scripted: Scripted) -> None:
    scripted.says("again")
    app.send("From the first tab")
    other = app.another_tab()
    assert other.answers() == ["Another answer."]

    scripted.says("weather")
    other.send("From the second tab")
    answers = ["Another answer.", "It is 21 degrees in Seoul."]
    app.wait_for("document.querySelectorAll('.assistant').length === 2")
    assert app.answers() == answers

    scripted.says("again")
    app.page.click("#new-chat")
    app.send("Something else")
    other.page.wait_for_selector(".conversation-link:has-text('Something else')")
    assert other.answers() == answers, "what it shows has not changed"

    other.page.click("[aria-label='Delete “From the first tab”']")
    app.wait_for("document.querySelectorAll('.conversation-link').length === 1")
    other.page.click("#toast button")
    app.wait_for("document.querySelectorAll('.conversation-link').length === 2")
    other.page.click("[aria-label='Delete “Something else”']")  # the first tab has it open
    app.wait_for("document.querySelectorAll('.assistant').length === 2")
    for tab in (app, other):
        tab.page.reload()
        tab.page.wait_for_selector(".assistant >> nth=1")
        assert tab.texts(".conversation-link") == ["From the first tab"]
        assert tab.answers() == answers


def test_two_tabs_that_write_at_once_lose_nothing(app: App, scripted: Scripted) -> None:
    scripted.says("again")
    app.send("The beginning")
    other = app.another_tab()
    scripted.says("long")
    app.send("Say much", wait=False)
    other.wait_for("document.querySelectorAll('.assistant').length === 2")
    other.send("Meanwhile")
    app.page.wait_for_selector("#toast:has-text('goes on as one of its own')")
    app.page.keyboard.press("Escape")
    app.wait_for_answer()
    for tab in (app, other):
        tab.wait_for("document.querySelectorAll('.conversation-link').length === 2")
    assert app.texts(".user .text") == ["The beginning", "Say much"]
    assert other.texts(".user .text") == ["The beginning", "Say much", "Meanwhile"]
    scripted.says("weather")
    app.send("Go on")
    app.page.reload()
    app.page.wait_for_selector(".assistant")
    assert app.texts(".user .text") == ["The beginning", "Say much", "Go on"]
    app.page.locator(".conversation-link").nth(1).click()
    assert app.texts(".user .text") == ["The beginning", "Say much", "Meanwhile"]


def test_the_request_as_code(app: App) -> None:
    page = app.page
    page.fill("#composer-input", "It's 5 o'clock")
    page.click("#code-button")
    shown = {}
    for name in ("curl", "Python", "JavaScript"):
        page.click(f"#code-languages button:text-is('{name}')")
        shown[name] = page.inner_text("#code-text")
    assert "Bearer $API_KEY" in shown["curl"]
    assert "It'\\''s 5 o'\\''clock" in shown["curl"]
    compile(shown["Python"], "snippet.py", "exec")
    assert '{"role": "user", "content": "It\'s 5 o\'clock"}' in shown["Python"]
    assert f'baseURL: "{app.url}/v1"' in shown["JavaScript"]


def test_language_and_colours_are_kept(app: App) -> None:
    def ground() -> str:
        return str(app.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    page = app.page
    light = ground()
    page.click("#language")
    assert page.inner_text("#new-chat") == "새 대화"
    assert page.get_attribute("html", "lang") == "ko"
    for _ in range(2):  # as the system, light, dark
        page.click("#theme")
    dark = ground()
    assert dark != light
    app.open()
    page.reload()
    page.wait_for_selector("#model option", state="attached")
    assert page.inner_text("#new-chat") == "새 대화"
    assert ground() == dark


def test_it_begins_in_the_browsers_language_and_colours(
    visit: Callable[..., App], scripted: Scripted
) -> None:
    app = visit(scripted.url, locale="ko-KR", color_scheme="dark").open()
    assert app.page.inner_text("#send") == "보내기"
    assert app.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 22, 20)"


def test_the_keyboard_is_enough(app: App) -> None:
    page = app.page
    assert app.focused() == "composer-input"
    page.fill("#composer-input", "안녕")
    # While a syllable of Hangul is composed, Enter ends it and must not send.
    page.dispatch_event("#composer-input", "keydown", {"key": "Enter", "isComposing": True, "bubbles": True})
    assert app.texts(".user") == []
    page.keyboard.press("Alt+s")
    page.wait_for_selector("#status-view:visible")
    page.keyboard.press("Alt+c")
    page.wait_for_selector("#chat-view:visible")
    page.keyboard.press("Alt+p")
    assert app.focused() == "option-system"
    page.keyboard.press("Alt+p")
    page.locator("#thread").focus()
    page.keyboard.press("/")
    assert app.focused() == "composer-input"
    page.locator("#thread").focus()
    page.keyboard.press("?")
    assert page.locator("#help-dialog").is_visible()
    page.keyboard.press("Escape")
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert app.focused() == "composer-input"


def test_a_narrow_screen_has_room(visit: Callable[..., App], scripted: Scripted) -> None:
    app = visit(scripted.url, viewport={"width": 360, "height": 640}).open()
    page = app.page
    scripted.says("markdown")
    app.send("What is the capital?")
    for step in ("", "#panel-toggle", "#menu", "#to-status"):
        if step:
            page.click(step)
        page.wait_for_timeout(50)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, step
    page.click("#to-chat")
    page.locator("#conversation-list button").nth(0).click()
    page.keyboard.press("Escape")
    assert not page.locator("#conversations").is_visible()


def test_the_parser_of_events_takes_any_cut(app: App) -> None:
    stream = (
        ': ping\r\n\r\ndata: {"a": "é"}\r\n\r\ndata: one\ndata: two\n\n'
        "event: x\rdata:three\r\rdata\n\ndata: cut"
    )
    cuts = app.page.evaluate(
        """async (stream) => {
            const { EventParser } = await import('/web/stream.js');
            const results = new Set();
            for (let first = 0; first <= stream.length; first++)
                for (let second = first; second <= stream.length; second += 3) {
                    const parser = new EventParser();
                    const parts = [stream.slice(0, first), stream.slice(first, second), stream.slice(second)];
                    results.add(JSON.stringify(parts.flatMap((part) => parser.push(part))));
                }
            return [...results];
        }""",
        stream,
    )
    assert [json.loads(one) for one in cuts] == [['{"a": "é"}', "one\ntwo", "three", ""]]


def test_markdown(app: App) -> None:
    def tree(text: str) -> str:
        shown = app.page.evaluate(
            """async (text) => {
                const { render } = await import('/web/markdown.js');
                const place = document.createElement('div');
                for (let end = 1; end <= text.length; end++) render(place, text.slice(0, end));
                for (const button of place.querySelectorAll('button')) button.remove();
                return place.innerHTML.replace(/ (class|role|tabindex|target|rel|scope)="[^"]*"/g, '');
            }""",
            text,
        )
        return str(shown)

    assert tree("a *b* **c** `d*e*` f_g_h ~~i~~") == (
        "<p>a <em>b</em> <strong>c</strong> <code>d*e*</code> f_g_h <del>i</del></p>"
    )
    assert tree("# One\ntext\nmore") == '<p aria-level="3">One</p><p>text<br>more</p>'
    assert tree("2 * 3 * 4 and **open") == "<p>2 * 3 * 4 and **open</p>"
    assert tree("- a\n- b\n\n  c\n- d") == "<ul><li>a</li><li>b<p>c</p></li><li>d</li></ul>"
    assert tree("3. x\n4. y") == '<ol start="3"><li>x</li><li>y</li></ol>'
    assert tree("> a\n> > b") == "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"
    assert tree("~~~\nopen fence\n# no heading") == (
        "<div><div><span></span></div><pre><code>open fence\n# no heading</code></pre></div>"
    )
    assert tree("see https://a.example/x_y_z.") == (
        '<p>see <a href="https://a.example/x_y_z">https://a.example/x_y_z</a>.</p>'
    )
    assert tree("[a](data:text/html,x) \\*b\\*") == "<p>[a](data:text/html,x) *b*</p>"
    assert tree("> " * 100 + "x").count("<blockquote>") < 20
