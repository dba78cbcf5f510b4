"""Coroutines that are stepped by hand go on once the thing they wait for is there."""

import asyncio

from trtllm_openai.api.step_coroutine import when_unblocked


def test_a_future_calls_back_when_it_is_done() -> None:
    async def main() -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def wait() -> int:
            return await future + 1

        coroutine = wait()
        results: list[int] = []

        def go_on(_: object) -> None:
            try:
                coroutine.send(None)
            except StopIteration as end:
                results.append(end.value)

        when_unblocked(coroutine.send(None), go_on)
        await asyncio.sleep(0)
        assert results == []
        future.set_result(1)
        await asyncio.sleep(0)
        assert results == [2]

    asyncio.run(main())


def test_a_skipped_turn_calls_back_in_the_next() -> None:
    async def main() -> None:
        called: list[object] = []
        when_unblocked(None, called.append)
        assert called == []
        await asyncio.sleep(0)
        assert called == [None]

    asyncio.run(main())
