"""Hooks of MkDocs (mkdocs.yml) for what the site does and Markdown on a code host does by itself.

* Files beside docs/ that the site has as pages: `BESIDE`. Links to them and from them are translated.
* Anchors of headings are those of a code host, so that one link works in both: `anchor`.
* Nothing is loaded from another host: a page with a script, style sheet, font or picture from elsewhere is
  a warning, and `mkdocs build --strict` fails.

`tests/test_site.py` checks navigation, links and anchors without MkDocs.
"""

from __future__ import annotations

import logging
import posixpath
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.docs_site")

BESIDE = {
    "contributing.md": "CONTRIBUTING.md",
    "vulnerabilities.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages of the site by the file of the repository, from its root, that each shows."""

_LINK = re.compile(r"(?<=\]\()([^)#\s]+)")
_ELSEWHERE = re.compile(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(?:https?:)?//[^>]*>|<link[^>]*>")
_LOADED = re.compile(r"\srel=\"?(?:stylesheet|preload|preconnect|icon)\b.*?\shref=\"?(?:https?:)?//|src=")


def anchor(heading: str) -> str:
    """The anchor that code hosts give a heading: lower case, no punctuation, a hyphen for each space."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def in_site(link: str, folder: str) -> str:
    """A link of a file in `folder` of the repository (`docs`, or empty for its root) as the site has it."""
    if "://" in link or link.startswith("mailto:"):
        return link
    path = posixpath.normpath(posixpath.join(folder, link))
    page = next((page for page, file in BESIDE.items() if file == path), None)
    return page or path.removeprefix("docs/")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.mdx_configs.setdefault("toc", {})["slugify"] = lambda text, separator: anchor(text)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    from mkdocs.structure.files import File

    for page, file in BESIDE.items():
        with open(file, encoding="utf-8") as source:
            text = _LINK.sub(lambda found: in_site(found[1], ""), source.read())
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    if page.file.src_uri in BESIDE:
        return markdown
    return _LINK.sub(lambda found: in_site(found[1], "docs"), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """A pipe within code in a table is written `\\|`, which Python-Markdown leaves as it is."""
    return re.sub(
        r"<td[^>]*>.*?</td>",
        lambda cell: re.sub(
            r"<code>.*?</code>", lambda code: code[0].replace("\\|", "|"), cell[0], flags=re.DOTALL
        ),
        html,
        flags=re.DOTALL,
    )


def on_post_page(output: str, page: Page, **_: Any) -> str:
    for found in _ELSEWHERE.findall(output):
        if _LOADED.search(found):
            log.warning("%s loads something from another host: %s", page.file.src_uri, found)
    return output
