"""Questions and answers between two processes, over a socket pair."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from trtllm_openai.errors import Unanswered
from trtllm_openai.serve.workers.channel import Channel, frame, read_blocking
from trtllm_openai.serve.workers.messages import (
    Converting,
    Message,
    Opened,
    Question,
    WantMetrics,
    WantRestart,
)


async def answer(question: Question) -> Any:
    match question:
        case WantRestart(index, seconds):
            return index == 1 and seconds == 2.5
        case WantMetrics():
            raise RuntimeError("a bug")
    raise Unanswered


def connected(test: Callable[[Channel, Channel, list[Message]], Awaitable[None]]) -> None:
    async def main() -> None:
        heard: list[Message] = []
        ends = socket.socketpair()
        first, second = (Channel(end, heard.append, answer) for end in ends)
        first.tell(Opened("early", ""))
        for channel in (first, second):
            await channel.open()
        tasks = [asyncio.create_task(channel.run()) for channel in (first, second)]
        await test(first, second, heard)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


def test_messages_in_order_and_answers_to_their_questions() -> None:
    async def test(first: Channel, second: Channel, heard: list[Message]) -> None:
        first.tell(Converting(0.5, "x" * 100_000))
        first.tell(Opened("m", "/t"))
        found = await asyncio.gather(
            first.ask(WantRestart(1, 2.5), bool),
            first.ask(WantRestart(2, 2.5), bool),
            second.ask(WantRestart(1, 2.5), bool),
        )
        assert found == [True, False, True]
        assert heard == [Converting(0.5, "x" * 100_000), Opened("m", "/t")]

    connected(test)


def test_a_question_that_fails_over_there_is_unanswered(caplog: pytest.LogCaptureFixture) -> None:
    async def test(first: Channel, second: Channel, heard: list[Message]) -> None:
        with pytest.raises(Unanswered):
            await first.ask(WantMetrics(), dict)
        assert "a question of another process was not answered" in caplog.text

    connected(test)


def test_the_first_message_is_read_without_a_loop() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(frame(Opened("m", "/t")))
        assert read_blocking(theirs) == Opened("m", "/t")
        ours.close()
        with pytest.raises(EOFError):
            read_blocking(theirs)
