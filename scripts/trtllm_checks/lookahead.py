"""An engine built for lookahead decoding: greedy whatever is asked, and what it ignores is refused by name.

What holds as on any engine, such as `stop` and `min_tokens`, is in `answers`.
"""

from __future__ import annotations

from typing import Any

from scripts.trtllm_checks.server import Server
from scripts.trtllm_checks.table import Row, expect, rows, same

REFUSED: dict[str, Any] = {
    "temperature": 0.7,
    "top_p": 0.5,
    "frequency_penalty": 1,
    "logprobs": 0,
    "guided_regex": "a+",
}
REPETITIVE = "one two three one two three one two three one two three one two"


def check_lookahead(server: Server) -> list[Row]:
    """Rows of a server whose engine was built for lookahead decoding."""

    def greedy() -> str:
        return repr(same(server.same_text(), server.text(temperature=0))[:40])

    def refused() -> str:
        for param, value in REFUSED.items():
            response = server.post(**{param: value})
            expect(response.status_code == 400, f"{param} {value!r}: {response.status_code}")
            named = response.json()["error"]["param"]
            expect(named == param, f"{param} {value!r}: 400 that names {named!r}")
        return f"{', '.join(REFUSED)}: 400"

    def several() -> str:
        usage = {"include_usage": True, "continuous_usage_stats": True}
        body = {"prompt": REPETITIVE, "max_tokens": 60, "ignore_eos": True}
        chunks = server.stream(**body, stream_options=usage)
        counts = {chunk["usage"]["completion_tokens"] for chunk in chunks}
        expect(max(counts) == 60, f"60 tokens asked for: {max(counts)}")
        return f"{max(counts)} tokens in {len(counts)} steps"

    return rows(
        {
            "lookahead: greedy without a word": greedy,
            "lookahead: refused by name": refused,
            "lookahead: tokens per step": several,
        }
    )
