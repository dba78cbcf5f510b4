"""The table of JSON Schema keywords in docs/structured_output.md is current."""

from pathlib import Path

from trtllm_openai.engines.torch import keywords
from trtllm_openai.engines.torch.keywords import Validator

PAGE = Path(__file__).parents[4] / "docs" / "structured_output.md"


def test_the_page_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert keywords.updated(page) == page, (
        "run: python -m trtllm_openai.engines.torch.keywords docs/structured_output.md"
    )


def test_a_stale_page_is_updated(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    stale = tmp_path / "page.md"
    stale.write_text(page.replace("| enforced |", "| perhaps |"), encoding="utf-8")
    assert keywords.main([str(stale)]) == 0
    assert stale.read_text(encoding="utf-8") == page


def test_standings() -> None:
    validator = Validator()
    assert validator.standing({"type": "integer"}, "a") == "enforced"
    assert validator.standing({"type": "integer", "not": {"const": 1}}, 1) == "refused"
    assert validator.standing({"type": "integer", "title": "positive"}, -1) == "ignored"
    assert validator.writable({"type": "array", "maxItems": 2}, [1, {"é": "\\n"}])
    assert not validator.writable({"type": "array", "maxItems": 1}, [1, 2])
