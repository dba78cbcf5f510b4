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

    async def fetch_stored_response(
        self, owner: str, operation: Operation, response_id: str, key: str
    ) -> bytes | None:
        peer = self.known.get(owner)
        return await peer.answer(operation, response_id, key) if peer is not None and peer.answer else None


def new_store(capacity: int, peers: Peers | None = None, max_bytes: int = 10**6) -> ResponseStore:
    return ResponseStore(capacity, max_bytes, peers or Peers())


def put(store: ResponseStore, task: "asyncio.Task[None] | None" = None, key: str = "", text: str = "") -> str:
    response_id = store.new_id()
    store.put(Stored({"id": response_id}, [{"id": "i"}], [{"role": "user", "content": text}], key, task))
    return response_id


async def known(store: ResponseStore, response_id: str, key: str = "") -> bool:
    try:
        found = await store.get(response_id, key)
    except ApiError as error:
        code = error.code
    else:
        return bool(found.response["id"] == response_id)
    assert code == "response_not_found"
    return False


def test_the_oldest_goes_first() -> None:
    async def main() -> None:
        store = new_store(2)
        ids = [put(store) for _ in range(3)]
        assert [await known(store, one) for one in ids] == [False, True, True]
        await store.delete(ids[1], "")
        assert not await known(store, ids[1])

    asyncio.run(main())


def test_a_running_response_is_not_evicted() -> None:
    async def main() -> None:
        store = new_store(1)
        task = asyncio.create_task(asyncio.sleep(60))
        running = put(store, task)
        other = put(store)
        assert await known(store, running)
        assert not await known(store, other)
        await store.cancel(running, "")
        assert task.cancelled(), "cancel waits for the end"

    asyncio.run(main())


def test_close_cancels_everything() -> None:
    async def main() -> None:
        store = new_store(5)
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
        first, second = (new_store(2, Peers(name, processes)) for name in ("a", "b"))
        mine = put(first)
        found = await second.get(mine, "")
        assert (found.response, found.input_items, found.messages) == (
            {"id": mine},
            [{"id": "i"}],
            [{"role": "user", "content": ""}],
        )
        await second.delete(mine, "")
        assert not await known(first, mine)
        put(first)
        last = put(first)
        assert await known(second, last)

    asyncio.run(main())


def test_the_capacity_is_that_of_all_processes() -> None:
    async def main() -> None:
        store = new_store(2, Peers("a", {}))
        ids = [put(store), put(store)]
        assert [await known(store, one) for one in ids] == [False, True]

    asyncio.run(main())


@pytest.mark.parametrize("response_id", ["", "resp_x", "resp_nobody_1", "a_b_c_d"])
def test_unknown_ids_name_the_parameter(response_id: str) -> None:
    async def main() -> None:
        with pytest.raises(ApiError) as caught:
            await new_store(2).get(response_id, "", "previous_response_id")
        assert (caught.value.status, caught.value.param) == (404, "previous_response_id")

    asyncio.run(main())


@pytest.mark.parametrize("others", ["here", "elsewhere"])
def test_no_key_has_what_another_made(others: str) -> None:
    async def main() -> None:
        processes: dict[str, Peers] = {}
        first, second = (new_store(9, Peers(name, processes)) for name in ("a", "b"))
        asked = first if others == "here" else second
        task = asyncio.create_task(asyncio.sleep(60))
        mine = put(first, task, key="alice")
        for stranger in ("bob", ""):
            for attempt in (asked.get, asked.delete, asked.cancel):
                with pytest.raises(ApiError) as caught:
                    await attempt(mine, stranger)
                assert (caught.value.status, caught.value.code) == (404, "response_not_found")
        await asyncio.sleep(0)
        assert not task.cancelled()
        assert await known(asked, mine, "alice")
        await asked.cancel(mine, "alice")
        assert task.cancelled()

    asyncio.run(main())


def test_their_bytes_are_bounded_and_the_key_with_most_pays() -> None:
    async def main() -> None:
        store = new_store(100, max_bytes=1000)
        small = put(store, key="alice")
        large = [put(store, key="bob", text="x" * 200) for _ in range(9)]
        assert await known(store, small, "alice")
        kept = [await known(store, one, "bob") for one in large]
        assert kept == sorted(kept), "the oldest went first"
        assert 0 < sum(kept) < 5
        put(store, key="carol", text="x" * 2000)
        assert await known(store, small, "alice"), "what can never fit goes itself"
        assert await known(store, large[-1], "bob")

    asyncio.run(main())


def test_one_keys_number_of_responses_evicts_its_own() -> None:
    async def main() -> None:
        store = new_store(3)
        first = put(store, key="alice")
        rest = [put(store, key="bob") for _ in range(5)]
        assert await known(store, first, "alice")
        assert [await known(store, one, "bob") for one in rest] == [False] * 3 + [True] * 2

    asyncio.run(main())


def test_the_last_state_of_a_generated_response_is_kept_unless_it_was_deleted() -> None:
    async def main() -> None:
        store = new_store(3)
        for deleted in (False, True):
            stored = Stored({"id": store.new_id(), "status": "in_progress"}, [], [])
            stored.task = asyncio.create_task(asyncio.sleep(60))
            store.put(stored)
            if deleted:
                await store.delete(stored.response["id"], "")
            stored.task.cancel()
            stored.task = None
            stored.response["status"] = "completed"
            store.generated(stored)
            stored.response["status"] = "changed afterwards"
            assert await known(store, stored.response["id"]) is not deleted
            if not deleted:
                assert (await store.get(stored.response["id"], "")).response["status"] == "completed"

    asyncio.run(main())
