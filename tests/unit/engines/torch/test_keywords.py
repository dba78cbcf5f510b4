"""The table of JSON Schema keywords in docs/structured_output.md is current."""

from pathlib import Path

from tests.unit.written_parts import check_current, check_updated
from trtllm_openai.engines.torch import keywords
from trtllm_openai.engines.torch.keywords import Validator


def test_the_page_is_current() -> None:
    check_current(keywords.PART, "structured_output.md")


def test_a_stale_page_is_updated(tmp_path: Path) -> None:
    check_updated(keywords.PART, "structured_output.md", ("| enforced |", "| perhaps |"), tmp_path)


def test_standings() -> None:
    validator = Validator()
    assert validator.standing({"type": "integer"}, "a") == "enforced"
    assert validator.standing({"type": "integer", "not": {"const": 1}}, 1) == "refused"
    assert validator.standing({"type": "integer", "title": "positive"}, -1) == "ignored"
    assert validator.writable({"type": "array", "maxItems": 2}, [1, {"é": "\\n"}])
    assert not validator.writable({"type": "array", "maxItems": 1}, [1, 2])
