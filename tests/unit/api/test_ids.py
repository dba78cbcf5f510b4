"""Ids of requests and answers."""

import re

from trtllm_openai.api.ids import new_id


def test_ids_are_long_and_differ() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids), "leading zeros are kept"
