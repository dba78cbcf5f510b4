"""Work ends with its client, and a watch leaves nothing behind."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from trtllm_openai.api.disconnect import DisconnectWatcher, while_connected
from trtllm_openai.errors import ClientDisconnected


class Connection:
    """`leave` ends it; what it says before that are body messages."""

    def __init__(self, bodies: int = 0) -> None:
        self.bodies = bodies
        self.over = asyncio.Event()

    def leave(self) -> None:
        self.over.set()

    async def receive(self) -> Any:
        if self.bodies:
            self.bodies -= 1
            await asyncio.sleep(0)
            return {"type": "http.request"}
        await self.over.wait()
        return {"type": "http.disconnect"}


@pytest.mark.parametrize("bodies", [0, 2])
def test_departure_is_told_once(bodies: int) -> None:
    async def main() -> None:
        connection, told = Connection(bodies), []
        departure = DisconnectWatcher(connection.receive, lambda: told.append(1))
        for _ in range(2 * bodies + 2):
            await asyncio.sleep(0)
        assert not told
        connection.leave()
        await asyncio.sleep(0.01)
        assert told == [1]
        assert departure.gone
        departure.close()

    asyncio.run(main())


def test_closed_watch_says_nothing() -> None:
    async def main() -> None:
        connection, told = Connection(), []
        departure = DisconnectWatcher(connection.receive, lambda: told.append(1))
        connection.leave()  # noticed by the loop's next turn only
        departure.close()
        departure.close()
        await asyncio.sleep(0.01)
        assert not told
        assert not departure.gone

    asyncio.run(main())


def test_lost_connection_is_a_departure() -> None:
    async def receive() -> Any:
        raise ConnectionResetError

    async def main() -> None:
        assert DisconnectWatcher(receive, lambda: None).gone

    asyncio.run(main())


@pytest.mark.parametrize("how", ["done", "gone", "gone before", "cancelled", "fails"])
def test_work_while_connected(how: str) -> None:
    async def main() -> None:
        connection, cleaned = Connection(), []

        async def work() -> str:
            try:
                await asyncio.sleep(0 if how == "done" else 0.02 if how == "fails" else 30)
                if how == "fails":
                    raise ValueError
                return "answer"
            finally:
                cleaned.append(1)

        if how == "gone before":
            connection.leave()
            await asyncio.sleep(0)
        request: Any = SimpleNamespace(receive=connection.receive)
        task = asyncio.create_task(while_connected(request, work()))
        await asyncio.sleep(0.01)
        if how == "gone":
            connection.leave()
        if how == "cancelled":
            task.cancel()
        expected = {"gone": ClientDisconnected, "gone before": ClientDisconnected, "fails": ValueError}
        if how == "done":
            assert await task == "answer"
        else:
            with pytest.raises(expected.get(how, asyncio.CancelledError)):
                await task
        assert cleaned == ([] if how == "gone before" else [1])
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
