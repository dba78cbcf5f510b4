"""A summary in an item, and read from it again."""

import pytest

from trtllm_openai.api.responses.compaction import HEADING, SCHEME, compaction_item, summary_message
from trtllm_openai.errors import InvalidRequest


@pytest.mark.parametrize("summary", ["", "Ünï\ncode 🙂", "half of a pair \ud83d"])
def test_what_was_written_is_read(summary: str) -> None:
    item = compaction_item(summary, "cmp_1")
    assert (item["id"], item["type"]) == ("cmp_1", "compaction")
    said = summary_message(item["encrypted_content"], "p")["content"]
    assert said == HEADING + summary.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("content", ["", "gAAAAABo", SCHEME + "?", SCHEME + "/w==", f"x{SCHEME}YQ=="])
def test_what_another_server_wrote_is_refused(content: str) -> None:
    with pytest.raises(InvalidRequest, match="input") as caught:
        summary_message(content, "input[0].encrypted_content")
    assert caught.value.param == "input[0].encrypted_content"
