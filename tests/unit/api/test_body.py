"""The bound on nesting, whatever stands beside what is nested."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtllm_openai.api.body import deeper_than

VALUES = st.recursive(
    st.integers() | st.none() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=4),
    max_leaves=20,
)


def depth(value: Any) -> int:
    if not isinstance(value, (dict, list)):
        return 0
    children = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, children), default=0)


@given(VALUES, st.integers(1, 6))
def test_depth_is_bounded_exactly(value: Any, limit: int) -> None:
    assert deeper_than(value, limit) == (depth(value) > limit + 1)


@pytest.mark.parametrize("count", [1, 100_000])
def test_wide_is_not_deep(count: int) -> None:
    assert not deeper_than({"prompt": [1] * count}, 2)
