"""References to items of stored responses."""

import asyncio
from typing import Any

import pytest

from tests.unit.api.responses.test_store import Peers, new_store
from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.responses.references import is_reference, item_id, resolved
from trtllm_openai.api.responses.store import ResponseStore, Stored
from trtllm_openai.errors import InvalidRequest


def stored_items(store: ResponseStore, key: str = "") -> tuple[str, str]:
    """Store a response; the ids of an item of its output and one of its input."""
    response_id = store.new_id()
    output = [{"id": item_id("msg", response_id, number), "type": "message"} for number in range(3)]
    given = [{"id": item_id("item", response_id, 0), "type": "message", "role": "user"}]
    store.put(Stored({"id": response_id, "output": output}, given, [], key))
    return output[2]["id"], given[0]["id"]


def reference(item: object) -> dict[str, Any]:
    return {"type": "item_reference", "id": item}


def test_items_are_found_in_every_process() -> None:
    async def main() -> None:
        first = Peers("w1", {})
        second = Peers("w2", first.known)
        here, there = new_store(5, first), new_store(5, second)
        made, given = stored_items(there)
        assert len(made) <= 64, "the length that OpenAI allows"
        other = {"role": "user", "content": "x"}
        for store in (here, there):
            found = await resolved([reference(made), other, reference(given)], store, "")
            assert [one.get("id") for one in found] == [made, None, given]
            assert found[2]["role"] == "user"

    asyncio.run(main())


@pytest.mark.parametrize("wanted", ["x", "msg_", "msg_" + "0" * 32 + "_0", "msg_w9_" + "0" * 32 + "_0"])
def test_an_unknown_item_is_named(wanted: str) -> None:
    with pytest.raises(ApiError) as caught:
        asyncio.run(resolved([{"role": "user"}, reference(wanted)], new_store(5), ""))
    assert (caught.value.status, caught.value.param) == (404, "input[1].id")
    assert wanted in caught.value.message


def test_items_belong_to_a_key_and_go_with_their_response() -> None:
    async def main() -> None:
        store = new_store(5)
        made, _ = stored_items(store, "alice")
        await resolved([reference(made)], store, "alice")
        with pytest.raises(ApiError):
            await resolved([reference(made)], store, "bob")
        with pytest.raises(ApiError):
            await resolved([reference(made[:-1] + "7")], store, "alice")
        with pytest.raises(InvalidRequest):
            await resolved([reference(5)], store, "alice")
        await store.delete("resp_" + made.split("_")[1], "alice")
        with pytest.raises(ApiError):
            await resolved([reference(made)], store, "alice")

    asyncio.run(main())


def test_what_is_a_reference() -> None:
    assert is_reference({"type": "item_reference", "id": "x"})
    assert is_reference({"id": "x"})
    assert not is_reference({"id": "x", "role": "user", "content": "y"})
    assert not is_reference({"id": "x", "type": "function_call"})
