"""Stored responses: bounded, evicted oldest first, and found in whichever process keeps them."""

import asyncio

import pytest

from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.responses.store import Operation, ResponseStore, Stored, StoredAnswer


class Peers:
    """Processes of one server, which reach each other by name."""

    def __init__(self, worker: str = "", known: "dict[str, Peers] | None" = None) -> None:
        self.worker = worker
        self.known = {} if known is None else known
        self.known[worker] = self
        self.workers = 1 if known is None else 2
        self.answer: StoredAnswer | None = None

    def serve_stored_responses(self, answer: StoredAnswer) -> None:
        self.answer = answer

    async def fetch_stored_response(self, owner: str, operation: Operation, response_id: str) -> bytes | None:
        peer = self.known.get(owner)
        return await peer.answer(operation, response_id) if peer is not None and peer.answer else None


def put(store: ResponseStore, task: "asyncio.Task[None] | None" = None) -> str:
    response_id = store.new_id()
    store.put(Stored({"id": response_id}, [{"id": "i"}], [{"role": "user"}], task))
    return response_id


async def known(store: ResponseStore, response_id: str) -> bool:
    try:
        found = await store.get(response_id)
    except ApiError as error:
        code = error.code
    else:
        return bool(found.response["id"] == response_id)
    assert code == "response_not_found"
    return False


def test_the_oldest_goes_first() -> None:
    async def main() -> None:
        store = ResponseStore(2, Peers())
        ids = [put(store) for _ in range(3)]
        assert [await known(store, one) for one in ids] == [False, True, True]
        await store.delete(ids[1])
        assert not await known(store, ids[1])

    asyncio.run(main())


def test_what_is_being_generated_is_not_evicted() -> None:
    async def main() -> None:
        store = ResponseStore(1, Peers())
        task = asyncio.create_task(asyncio.sleep(60))
        running = put(store, task)
        other = put(store)
        assert await known(store, running)
        assert not await known(store, other)
        await store.cancel(running)
        assert task.cancelled(), "cancel waits for the end"

    asyncio.run(main())


def test_close_cancels_everything() -> None:
    async def main() -> None:
        store = ResponseStore(5, Peers())
        task = asyncio.create_task(asyncio.sleep(60))
        put(store, task)
        put(store)
        store.close()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    asyncio.run(main())


def test_another_process_is_asked_for_its_own() -> None:
    async def main() -> None:
        processes: dict[str, Peers] = {}
        first, second = (ResponseStore(2, Peers(name, processes)) for name in ("a", "b"))
        mine = put(first)
        found = await second.get(mine)
        assert (found.response, found.input_items, found.messages) == (
            {"id": mine},
            [{"id": "i"}],
            [{"role": "user"}],
        )
        await second.delete(mine)
        assert not await known(first, mine)
        put(first)
        last = put(first)
        assert await known(second, last)

    asyncio.run(main())


def test_the_capacity_is_that_of_all_processes() -> None:
    async def main() -> None:
        store = ResponseStore(2, Peers("a", {}))
        ids = [put(store), put(store)]
        assert [await known(store, one) for one in ids] == [False, True]

    asyncio.run(main())


@pytest.mark.parametrize("response_id", ["", "resp_x", "resp_nobody_1", "a_b_c_d"])
def test_unknown_ids_name_the_parameter(response_id: str) -> None:
    async def main() -> None:
        with pytest.raises(ApiError) as caught:
            await ResponseStore(2, Peers()).get(response_id, "previous_response_id")
        assert (caught.value.status, caught.value.param) == (404, "previous_response_id")

    asyncio.run(main())
