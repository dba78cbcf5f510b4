"""Compaction: a conversation as a summary that the model writes, in an item that stands for it later.

OpenAI's item holds its model's state, encrypted. Ours holds the summary, as text in a form of its own
(`SCHEME` and base64): not encrypted, and worth no more than a message that the client could write itself.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.common import JsonObject

SCHEME = "trtllm-openai-summary:"
MAX_SUMMARY_TOKENS = 4096
TASK = (
    "Summarize the conversation so far, so that you can go on with it from the summary alone. Say what the "
    "user wants and what was decided, what was done and found out, with the names, paths, values and code "
    "that are still needed, and what is left to do. Write the summary only."
)
"""The message that follows the conversation."""
HEADING = "Summary of the conversation before this point:\n\n"


def compaction_item(summary: str, item_id: str) -> JsonObject:
    """The item that stands for the summarized conversation."""
    content = SCHEME + base64.b64encode(summary.encode("utf-8", "replace")).decode()
    return {"id": item_id, "type": "compaction", "encrypted_content": content}


def summary_message(content: str, param: str) -> dict[str, Any]:
    """The message that a compaction item is to the model. Raises `InvalidRequest` for another server's."""
    scheme, found, encoded = content.partition(SCHEME)
    try:
        if scheme or not found:
            raise ValueError
        summary = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            f"'{param}' was not made by this server's /v1/responses/compact, so it cannot be read.", param
        ) from None
    return {"role": "assistant", "content": HEADING + summary}
