"""`item_reference`: an item of a stored response, named by its id alone.

An item's id is made of its response's: item 2 of `resp_w1_5f…` is `msg_w1_5f…_2`. So it says which response
to look into, and with several HTTP workers which of them has it; there is no index to keep.
"""

from __future__ import annotations

import re

from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.responses.store import ResponseStore, Stored
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.common import JsonObject

_ITEM_ID = re.compile(r"[a-z]+_(?P<response>(?:[^_]+_)?[0-9a-f]{32})_\d+")


def item_id(kind: str, response_id: str, number: int) -> str:
    """The id of item `number` of a response; `kind` is its prefix, such as msg."""
    return f"{kind}_{response_id.removeprefix('resp_')}_{number}"


def is_reference(item: JsonObject) -> bool:
    """Whether an item of `input` is a reference; OpenAI lets its type be left out."""
    kind = item.get("type")
    return kind == "item_reference" or (kind is None and "role" not in item and "id" in item)


async def resolved(items: list[JsonObject], store: ResponseStore, key: str) -> list[JsonObject]:
    """`items` with the stored items of `key` in place of references, each at its place.

    Raises `ApiError` 404 naming a reference to an item that is not stored.
    """
    responses: dict[str, Stored] = {}
    found = []
    for index, item in enumerate(items):
        found.append(
            await _resolve(item, f"input[{index}]", store, key, responses) if is_reference(item) else item
        )
    return found


async def _resolve(
    item: JsonObject, json_path: str, store: ResponseStore, key: str, responses: dict[str, Stored]
) -> JsonObject:
    wanted = item.get("id")
    if not isinstance(wanted, str):
        raise InvalidRequest(f"'{json_path}.id' must be a string.", f"{json_path}.id", "invalid_type")
    match = _ITEM_ID.fullmatch(wanted)
    if match is not None:
        response_id = f"resp_{match['response']}"
        try:
            if response_id not in responses:
                responses[response_id] = await store.get(response_id, key)
        except ApiError as error:
            if error.status != 404:
                raise
        else:
            stored = responses[response_id]
            for one in (*stored.response["output"], *stored.input_items):
                if one.get("id") == wanted and not is_reference(one):
                    return dict(one)
    raise ApiError(
        404,
        f"Item '{wanted}' of '{json_path}' was not found: its response was never stored, was deleted or was "
        "evicted.",
        param=f"{json_path}.id",
        code="item_not_found",
    )
