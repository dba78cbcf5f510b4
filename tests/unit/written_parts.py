"""Checks of a page of docs/ of which a module writes a part."""

from pathlib import Path

from tests.conftest import PACKAGE_ROOT
from trtllm_openai.pages import Part

DOCS = PACKAGE_ROOT.parent / "docs"


def check_current(part: Part, name: str) -> None:
    """The page has what the module writes."""
    page = (DOCS / name).read_text(encoding="utf-8")
    assert part.updated(page) == page, f"run: python -m {part.module} docs/{name}"


def check_updated(part: Part, name: str, stale: tuple[str, str], directory: Path) -> None:
    """A page in which a text was replaced is as before after the module's command."""
    page = (DOCS / name).read_text(encoding="utf-8")
    copy = directory / name
    copy.write_text(page.replace(*stale), encoding="utf-8")
    assert copy.read_text(encoding="utf-8") != page
    assert part.main([str(copy)]) == 0
    assert copy.read_text(encoding="utf-8") == page
