"""Fields of a chat request on the routes that are translated to one, where they have other names or none.

A client that sends `response_format` to `/v1/responses` means `text.format`. An unknown field is ignored, so
that would be free text without a word; a field that the server knows and that would change the answer is
refused, with the name that it has on the route.
"""

from __future__ import annotations

from collections.abc import Mapping

from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.common import RequestModel

_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "add_generation_prompt": (True,),
    "modalities": (["text"],),
    "function_call": ("none", "auto"),
    "truncation_side": ("left",),
}
"""Values that ask for nothing, beside null, false and what is empty."""
_HARMLESS = frozenset(
    {"prediction", "stream_options", "store", "metadata", "service_tier", "user", "parallel_tool_calls"}
)
"""Fields that do not change the answer, or only how fast and to whom it goes."""


def refuse_chat_fields(body: RequestModel, route: str, names: Mapping[str, str]) -> None:
    """Raise `InvalidRequest` for a field of a chat request that is unknown to `body`'s route.

    `names`: what some of them are called there.
    """
    for field, value in (body.model_extra or {}).items():
        if field in _HARMLESS or field not in ChatRequest.model_fields:
            continue
        if not value or value in _NEUTRAL.get(field, ()):
            continue
        hint = f": use {names[field]}" if field in names else ""
        raise InvalidRequest(f"'{field}' is not supported by {route}{hint}.", field, "unsupported_parameter")
