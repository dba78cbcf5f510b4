"""The parameter table of docs/api.md is current."""

from pathlib import Path

import pytest

from trtllm_openai.generation import docs
from trtllm_openai.generation.parameters import PARAMETERS

API = Path(__file__).parents[3] / "docs" / "api.md"


def test_the_page_is_current() -> None:
    page = API.read_text(encoding="utf-8")
    assert docs.updated(page) == page, "run: python -m trtllm_openai.generation.docs docs/api.md"


def test_a_stale_page_is_updated(tmp_path: Path) -> None:
    page = API.read_text(encoding="utf-8")
    stale = tmp_path / "api.md"
    stale.write_text(page.replace("0.01 to 100", "0 to 7"), encoding="utf-8")
    assert stale.read_text(encoding="utf-8") != page
    assert docs.main([str(stale)]) == 0
    assert stale.read_text(encoding="utf-8") == page


def test_a_page_without_markers() -> None:
    with pytest.raises(ValueError, match="substring"):
        docs.updated("no markers here")


def test_every_parameter_has_one_line() -> None:
    lines = docs.table(PARAMETERS).splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == [row.name for row in PARAMETERS]
