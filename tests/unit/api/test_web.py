"""The page's files: who gets them, with which headers, and what they may contain."""

import gzip
import json
import re

import pytest

from tests.conftest import PACKAGE_ROOT
from tests.unit.api.served import Served
from trtllm_openai.api.web import PAGE, POLICY, web_files
from trtllm_openai.text.tokenizer import Tokenizer

FOLDER = PACKAGE_ROOT / "trtllm_openai" / "web"
BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
MAX_BYTES = 150_000
ABOUT = {"name": "trtllm-openai-server", "docs": "/docs"}


@pytest.fixture(scope="module")
def served(demo_tokenizer: Tokenizer) -> Served:
    return Served(demo_tokenizer, api_key="sk-a-key-of-this-test")


def test_a_browser_gets_the_page_and_others_what_they_got_before(served: Served) -> None:
    page = served.get("/", headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text == (FOLDER / PAGE).read_text()
    for headers in ({}, {"accept": "*/*"}, {"accept": "application/json"}):
        other = served.get("/", headers=headers)
        assert other.json() == ABOUT
        assert other.headers["vary"] == page.headers["vary"] == "accept, accept-encoding"


def test_files_need_no_key_and_data_does(served: Served) -> None:
    for name in web_files().keys() - {PAGE}:
        response = served.get(f"/web/{name}")
        assert (response.status_code, response.content) == (200, (FOLDER / name).read_bytes())
    assert served.get("/v1/models").status_code == 401
    for path in ("/web/nothing.js", "/web/", f"/web/{PAGE}", "/web/../py.typed", "/web/%2e%2e/py.typed"):
        assert served.get(path).status_code == 401, "as any path that does not exist"
    headers = {"authorization": "Bearer sk-a-key-of-this-test"}
    assert served.get(f"/web/{PAGE}", headers=headers).status_code == 404


def test_media_types(served: Served) -> None:
    kinds = {"app.js": "text/javascript; charset=utf-8", "style.css": "text/css; charset=utf-8"}
    kinds["icon.svg"] = "image/svg+xml"
    for name, kind in kinds.items():
        assert served.get(f"/web/{name}").headers["content-type"] == kind


@pytest.mark.parametrize("path", ["/", "/web/app.js"])
def test_headers(served: Served, path: str) -> None:
    response = served.get(path, headers={**BROWSER, "accept-encoding": "identity"})
    assert response.headers["content-security-policy"] == POLICY
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-cache"
    assert "content-encoding" not in response.headers
    again = {**BROWSER, "if-none-match": f'"other", {response.headers["etag"]}'}
    known = served.get(path, headers=again)
    assert (known.status_code, known.content) == (304, b"")
    assert known.headers["etag"] == response.headers["etag"]
    packed = served.get(path, headers={**BROWSER, "accept-encoding": "gzip, br"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == response.content, "httpx has unpacked it"
    assert int(packed.headers["content-length"]) < len(response.content) / 2


def test_it_can_be_switched_off(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer, web=False)
    assert served.get("/", headers=BROWSER).json() == ABOUT
    assert served.get("/web/app.js").status_code == 404
    locked = Served(demo_tokenizer, web=False, api_key="sk-a-key-of-this-test")
    assert locked.get("/web/app.js").status_code == 401


def test_it_is_small() -> None:
    assert sum(len(file.body) for file in web_files().values()) < MAX_BYTES
    assert sum(len(file.packed) for file in web_files().values()) < MAX_BYTES / 3
    for name, file in web_files().items():
        assert gzip.decompress(file.packed) == (FOLDER / name).read_bytes()


def test_nothing_comes_from_outside_and_nothing_becomes_html() -> None:
    namespaces = {"http://www.w3.org/2000/svg"}
    for path in FOLDER.iterdir():
        text = path.read_text()
        assert set(re.findall(r"https?://[\w.][^\s\"'`)]*", text)) <= namespaces, path.name
        if path.suffix != ".js":
            assert not re.search(r"\son\w+=|\sstyle=|<script(?![^>]*\ssrc=)", text), path.name
            continue
        sinks = (
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc"
        )
        assert not re.search(sinks, text), path.name


def test_pictures_of_the_documents_exist_and_are_small() -> None:
    docs = PACKAGE_ROOT.parent / "docs"
    named = {docs / path for path in re.findall(r"\]\((images/[^)]+)\)", (docs / "web.md").read_text())}
    assert named == set((docs / "images").glob("*.png"))
    assert max(path.stat().st_size for path in named) < 200_000


def strings() -> dict[str, list[str]]:
    """The table of texts."""
    text = (FOLDER / "strings.js").read_text()
    body = text[
        text.index("export const STRINGS = {") + len("export const STRINGS = ") : text.rindex("}") + 1
    ]
    pairs = json.loads(re.sub(r",(\s*[\]}])", r"\1", body), object_pairs_hook=list)
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys)), "a key is there twice"
    return dict(pairs)


def test_every_text_is_there_in_both_languages() -> None:
    for key, texts in strings().items():
        assert len(texts) == 2, key
        assert all(texts), key
        english, korean = (set(re.findall(r"{\w+}", text)) for text in texts)
        assert english == korean, key


def test_texts_that_are_used_exist_and_those_that_exist_are_used() -> None:
    code = "\n".join(path.read_text() for path in FOLDER.iterdir() if path.name != "strings.js")
    named = set(
        re.findall(
            r"""(?:\bt\(\s*|data-(?:i18n|placeholder|label)=|["'`])["'`]?([a-z]\w*(?:\.\w+)*)["'`]""", code
        )
    )
    families = tuple(re.findall(r"\bt\(\s*`([\w.]+\.)\$\{", code))
    asked = set(re.findall(r"""\bt\(\s*"([\w.]+)"|data-(?:i18n|placeholder|label)="([\w.]+)\"""", code))
    known = strings().keys()
    assert {one or other for one, other in asked} <= known
    assert not {key for key in known if key not in named and not key.startswith(families)}
