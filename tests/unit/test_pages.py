"""Parts of pages that the code writes: between their markers, and nowhere else."""

from pathlib import Path

import pytest

from trtllm_openai.pages import between, update_pages


def test_only_what_is_between_the_markers_changes() -> None:
    assert between("a <b> old <c> d <c>", "<b>", "<c>", "new") == "a <b>\nnew\n<c> d <c>"


@pytest.mark.parametrize("page", ["", "<c>", "<b>", "<c> <b>"])
def test_a_page_without_markers(page: str) -> None:
    with pytest.raises(ValueError, match="substring"):
        between(page, "<b>", "<c>", "new")


def test_files_are_updated(tmp_path: Path) -> None:
    names = [tmp_path / "one.md", tmp_path / "two.md"]
    for name in names:
        name.write_text("≥", encoding="utf-8")
    assert update_pages(list(map(str, names)), lambda page: page + "1") == 0
    assert [name.read_text(encoding="utf-8") for name in names] == ["≥1", "≥1"]
