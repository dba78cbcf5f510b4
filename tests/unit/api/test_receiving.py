"""The budget of unfinished messages, and bodies that are read within it."""

import asyncio
import gzip
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.receiving import Bodies, ReceiveBudget

LIMIT = 1000


def test_the_largest_makes_room_and_the_oldest_of_equals() -> None:
    budget = ReceiveBudget(10)
    given_up: list[str] = []
    receipts = {name: budget.open(lambda name=name: given_up.append(name)) for name in "abc"}  # type: ignore[misc]
    for name, size in (("a", 3), ("b", 4), ("c", 3)):
        receipts[name].add(size)
    assert (given_up, budget.used) == ([], 10)
    receipts["c"].add(1)
    assert (given_up, budget.used) == (["b"], 7)
    assert receipts["b"].given_up
    receipts["b"].add(100)  # it may not have heard of it yet
    receipts["b"].close()
    assert budget.used == 7
    receipts["c"].add(4)
    assert (given_up, budget.used) == (["b", "c"], 3)
    receipts["a"].close()
    receipts["a"].close()
    assert budget.used == 0


class Client:
    """Sends a body in parts."""

    def __init__(self, *parts: bytes) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for number, part in enumerate(parts, 1):
            self.send(part, more=number < len(parts))
        self.request = Request({"type": "http", "headers": []}, self.messages.get)

    def send(self, part: bytes, *, more: bool) -> None:
        self.messages.put_nowait({"type": "http.request", "body": part, "more_body": more})

    def leave(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def read(*parts: bytes, coding: str | None = None) -> bytes:
    async def main() -> bytes:
        return bytes(await Bodies(LIMIT, ReceiveBudget(LIMIT)).read(Client(*parts).request, coding))

    return asyncio.run(main())


@pytest.mark.parametrize(
    "parts", [(b"{}",), (b"{", b"", b"}"), (b"\xef\xbb\xbf{}",), (b"\xef", b"\xbb\xbf{", b"}")]
)
def test_a_body_in_parts_with_and_without_a_byte_order_mark(parts: tuple[bytes, ...]) -> None:
    assert read(*parts) == b"{}"


def test_a_compressed_body() -> None:
    data = gzip.compress(b"\xef\xbb\xbf{}")
    assert read(data, coding="gzip") == read(data[:5], data[5:], coding="gzip") == b"{}"
    with pytest.raises(ApiError) as caught:
        read(gzip.compress(bytes(LIMIT + 1)), coding="gzip")
    assert caught.value.status == 413


def test_an_unknown_coding_is_refused_before_the_body_is_read() -> None:
    with pytest.raises(ApiError) as caught:
        read(coding="br")  # reading would wait for ever
    assert caught.value.status == 415


@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_leaves(begun: bool) -> None:
    async def main() -> int:
        budget = ReceiveBudget(LIMIT)
        client = Client()
        if begun:
            client.send(b"x", more=True)
        client.leave()
        with pytest.raises(ClientDisconnect):
            await Bodies(LIMIT, budget).read(client.request)
        return budget.used

    assert asyncio.run(main()) == 0


def test_small_bodies_are_read_beside_large_ones_that_never_end() -> None:
    async def main() -> None:
        budget = ReceiveBudget(LIMIT)
        bodies = Bodies(LIMIT, budget)
        hoarders = [Client(), Client()]
        for hoarder in hoarders:
            hoarder.send(b"x" * 500, more=True)
        reads = [asyncio.create_task(bodies.read(hoarder.request)) for hoarder in hoarders]
        await settle()
        assert budget.used == LIMIT
        assert await bodies.read(Client(b"{", b"}").request) == b"{}"
        with pytest.raises(ApiError) as caught:
            await reads[0]
        assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "5")
        assert reads[0].cancelling() == 0
        hoarders[1].send(b"y" * 600, more=False)  # now it is too large itself
        with pytest.raises(ApiError):
            await reads[1]
        assert budget.used == 0

    asyncio.run(main())


def test_a_read_that_is_cancelled_for_another_reason_stays_cancelled() -> None:
    async def main() -> int:
        budget = ReceiveBudget(LIMIT)
        client = Client()
        client.send(b"x", more=True)
        task = asyncio.create_task(Bodies(LIMIT, budget).read(client.request))
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return budget.used

    assert asyncio.run(main()) == 0
