"""The page of the API: complete, well-formed, and without anything from outside."""

import re
from html.parser import HTMLParser

import pytest

from tests.unit.api.served import Served
from trtllm_openai.api.reference import page
from trtllm_openai.text.tokenizer import Tokenizer


class Tags(HTMLParser):
    """Checks that tags are closed in order, and collects links and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert "src" not in found
        self.links.add(found.get("href") or "")
        self.ids.add(found.get("id") or "")
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def served(demo_tokenizer: Tokenizer) -> Served:
    return Served(demo_tokenizer)


def test_the_page_has_every_route_and_asks_nothing_of_others(served: Served) -> None:
    answer = served.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    text = answer.text
    assert "<script" not in text
    assert "://" not in re.sub(r"<(td|p)>.*?</\1>", "", text), "outside of descriptions"
    document = served.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"<summary>{method.upper()} {path}</summary>" in text
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert {link[1:] for link in tags.links if link.startswith("#")} <= tags.ids
    assert set(document["components"]["schemas"]) <= tags.ids
    assert served.get("/redoc").status_code == 404


def test_texts_are_escaped() -> None:
    operation = {"description": "a<b>", "responses": {"200": {"description": "<i>"}}}
    document = {
        "info": {"title": "<t>", "version": "1"},
        "paths": {"/<x>": {"get": operation}},
        "components": {"schemas": {"S": {"properties": {"<f>": {"type": "string", "default": "<d>"}}}}},
    }
    text = page(document)
    for raw in ("<t>", "<x>", "<b>", "<i>", "<f>", "<d>"):
        assert raw not in text
    assert "&lt;f&gt;" in text
