"""A number of runners, or a range."""

from typing import Any

import pytest
from pydantic import ValidationError

from trtllm_openai.config import ReplicaRange, Settings


@pytest.mark.parametrize(
    ("written", "least", "most"),
    [
        (3, 3, 3),
        ("3", 3, 3),
        ({"min": 1, "max": 4}, 1, 4),
        ('{"min": 2, "max": 2}', 2, 2),
        ({"min": "1", "max": "4"}, 1, 4),
    ],
)
def test_both_forms_are_read_from_files_flags_and_variables(written: Any, least: int, most: int) -> None:
    settings = Settings(replicas=written)
    assert settings.replica_range == ReplicaRange(min=least, max=most)
    assert settings.replica_range.fixed == (least == most)
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings  # as runners get them


@pytest.mark.parametrize(
    "written",
    [
        *(0, -1, 1.5, True, None, "many", "[1, 4]", float("inf"), [1, 4]),
        *({"min": 1}, {"min": 0, "max": 2}, {"min": 3, "max": 2}, {"min": 1, "max": 2, "mid": 1}),
    ],
)
def test_others_are_refused_with_both_forms(written: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(replicas=written)
    (error,) = caught.value.errors()
    assert error["loc"] == ("replicas",)
    assert "at least 1, or {min: N, max: M}" in error["msg"]
