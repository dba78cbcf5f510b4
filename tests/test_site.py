"""Navigation, links and anchors of the documentation, as `make docs` would check them, without MkDocs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from scripts.docs_site import BESIDE, anchor
from tests.conftest import PACKAGE_ROOT

ROOT = PACKAGE_ROOT.parent
SITE = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*SITE, *(ROOT / name for name in BESIDE.values())]
"""All that is part of the site."""
OTHERS = [ROOT / name for name in ("README.md", "README.ko.md", "deploy/README.md")]
NAMING = ("app", "benchmarks", "deploy", "docker", "scripts", "tests", "config.yaml", "Makefile", ".github")
"""Files and folders whose texts name pages."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tokens(text: str) -> Iterator[Token]:
    """All tokens of a page, those within a line after the line."""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield token
        yield from token.children or []


@cache
def anchors(path: Path) -> frozenset[str]:
    """Of headings, but for those that a page has twice: hosts number them in different ways."""
    text = path.read_text()
    found = list(tokens(text))
    headings = [
        anchor("".join(child.content for child in following.children or []))
        for token, following in itertools.pairwise(found)
        if token.type == "heading_open"
    ]
    written = re.findall(r'<a id="([^"]+)"></a>', text)
    return frozenset([*(one for one in headings if headings.count(one) == 1), *written])


def links(path: Path) -> list[str]:
    """Targets of links and pictures within the repository."""
    found = [token.attrs.get("href") or token.attrs.get("src") for token in tokens(path.read_text())]
    return [str(one) for one in found if one and not re.match(r"[a-z]+:", str(one))]


def navigation(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for one in entry.values() if isinstance(entry, dict) else entry:
            yield from navigation(one)


def test_the_navigation_has_every_page_once() -> None:
    listed = list(navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(listed) == sorted([*(path.name for path in SITE), *BESIDE])
    assert len(SITE) > 10


@pytest.mark.parametrize("path", [*PAGES, *OTHERS], ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in links(path):
        file, _, part = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{name(path)}: there is no {link}"
        if part:
            assert part in anchors(target), f"{name(path)}: there is no {link}"
        if path in PAGES:
            inside = target in PAGES or (target.is_file() and ROOT / "docs" in target.parents)
            assert inside, f"{name(path)}: {link} is not part of the site"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_what_python_markdown_reads_in_another_way_is_not_used(path: Path) -> None:
    """A list needs an empty line before it, and four spaces before what belongs to an item."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    item = r"(?:[*-]|\d+\.) "
    lines = text.splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(item, line):
            assert not before or re.match(rf"{item}|\s|#", before), (
                f"{name(path)}: no empty line before: {line}"
            )
        assert not re.match(rf" {{1,3}}{item}", line), f"{name(path)}: not four spaces: {line}"


def test_pages_that_other_files_name_exist() -> None:
    found = 0
    for place in NAMING:
        whole = ROOT / place
        for path in whole.rglob("*") if whole.is_dir() else [whole]:
            readable = path.suffix in ("", ".py", ".yaml", ".yml") and "node_modules" not in path.parts
            if not readable or path.is_symlink() or not path.is_file():
                continue
            for page, part in re.findall(r"\bdocs/([\w-]+\.md)(?:#([\w-]+))?", path.read_text()):
                found += 1
                assert (ROOT / "docs" / page).exists(), f"{name(path)} names docs/{page}"
                assert not part or part in anchors(ROOT / "docs" / page), f"{name(path)}: {page}#{part}"
    assert found > 10


def test_pages_load_nothing_from_other_hosts() -> None:
    """`make docs` checks what was built; this is what would make it ask."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert settings["theme"]["font"] is False
    assert "extra_javascript" not in settings
    for style in settings["extra_css"]:
        assert not re.search("//|@import|url", (ROOT / "docs" / style).read_text()), style
    for path in PAGES:
        pictures = [token.attrs["src"] for token in tokens(path.read_text()) if token.type == "image"]
        assert not [one for one in pictures if "//" in str(one)], name(path)
