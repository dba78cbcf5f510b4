"""The parameter table of docs/api.md is current."""

from pathlib import Path

import pytest

from tests.unit.written_parts import check_current, check_updated
from trtllm_openai.generation import docs
from trtllm_openai.generation.parameters import PARAMETERS


def test_the_page_is_current() -> None:
    check_current(docs.PART, "api.md")


def test_a_stale_page_is_updated(tmp_path: Path) -> None:
    check_updated(docs.PART, "api.md", ("0.01 to 100", "0 to 7"), tmp_path)


def test_a_page_without_markers() -> None:
    with pytest.raises(ValueError, match="substring"):
        docs.PART.updated("no markers here")


def test_every_parameter_has_one_line() -> None:
    lines = docs.table(PARAMETERS).splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == [row.name for row in PARAMETERS]
