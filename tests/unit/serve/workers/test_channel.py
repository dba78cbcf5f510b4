"""The channel between the supervisor and a worker: order, questions under their numbers, and its end."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from trtllm_openai.errors import Unanswered
from trtllm_openai.processes.framing import framed
from trtllm_openai.serve.workers.channel import Channel, frame, read_blocking
from trtllm_openai.serve.workers.messages import (
    Converting,
    Message,
    NotDecoded,
    Opened,
    Question,
    WantMetrics,
    WantRestart,
)


async def double(question: Question) -> Any:
    """Answers a `WantRestart` with twice its index, later the larger it is; to nothing else."""
    if not isinstance(question, WantRestart):
        raise Unanswered
    await asyncio.sleep(question.drain_timeout_s)
    return question.index * 2


@asynccontextmanager
async def channels(
    answer: Callable[[Question], Awaitable[Any]] = double,
) -> AsyncIterator[tuple[Channel, Channel, list[Message], asyncio.Task[None]]]:
    """A channel that asks and one that answers; what the second heard, and its `run`."""
    heard: list[Message] = []
    one, other = socket.socketpair()
    asking, answering = Channel(one, lambda _: None, double), Channel(other, heard.append, answer)
    tasks = []
    for channel in (asking, answering):
        await channel.open()
        tasks.append(asyncio.create_task(channel.run()))
    try:
        async with asyncio.timeout(30):
            yield asking, answering, heard, tasks[1]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_messages_arrive_in_order() -> None:
    async def test() -> None:
        async with channels() as (asking, _, heard, _):
            sent: list[Message] = [Converting(number / 1000, "x" * number) for number in range(1000)]
            for message in sent:
                asking.tell(message)
            await until(lambda: len(heard) == len(sent))
            assert heard == sent

    asyncio.run(test())


def test_each_question_gets_its_own_answer_in_any_order() -> None:
    async def test() -> None:
        async with channels() as (asking, answering, heard, _):
            slow_first = [WantRestart(index, 0.2 - index / 50) for index in range(10)]
            both = [channel.ask(one, int) for channel in (asking, answering) for one in slow_first]
            assert await asyncio.gather(*both) == [2 * index for index in range(10)] * 2
            assert heard == []  # questions are no messages

    asyncio.run(test())


def test_a_question_that_is_not_answered() -> None:
    async def test() -> None:
        async with channels() as (asking, _, _, _):
            with pytest.raises(Unanswered, match="WantMetrics"):
                await asking.ask(WantMetrics(), dict)

    asyncio.run(test())


def test_an_answer_that_comes_too_late_is_dropped() -> None:
    async def test() -> None:
        async with channels() as (asking, _, _, _):
            with pytest.raises(Unanswered, match="WantRestart"):
                await asking.ask(WantRestart(1, 0.2), int, timeout_s=0.05)
            await asyncio.sleep(0.3)
            assert await asking.ask(WantRestart(5, 0.0), int) == 10

    asyncio.run(test())


def test_an_error_while_answering_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(question: Question) -> Any:
        if isinstance(question, WantMetrics):
            raise KeyError("a bug")
        return await double(question)

    async def test() -> None:
        async with channels(fail) as (asking, _, _, _):
            with pytest.raises(Unanswered):
                await asking.ask(WantMetrics(), dict)
            assert await asking.ask(WantRestart(3, 0.0), int) == 6

    with caplog.at_level(logging.ERROR):
        asyncio.run(test())
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "a bug" in str(record.exc_info[1])


def test_the_end_of_the_other_side_ends_questions_at_once() -> None:
    async def test() -> None:
        async with channels() as (asking, _, _, other_side):
            waiting = asyncio.create_task(asking.ask(WantRestart(1, 20.0), int, timeout_s=20.0))
            await asyncio.sleep(0.05)
            begin = asyncio.get_running_loop().time()
            other_side.cancel()  # its `run` closes the socket
            with pytest.raises(Unanswered):
                await waiting
            assert asyncio.get_running_loop().time() - begin < 5
            asking.tell(Converting(0.5, "to nobody"))
            with pytest.raises(Unanswered):
                await asking.ask(WantRestart(1, 0.0), int, timeout_s=0.1)

    asyncio.run(test())


def test_a_message_that_cannot_be_decoded_ends_no_channel_and_nobody_waits_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        async with channels() as (asking, _, heard, _):
            assert asking._writer is not None
            for body in (b"", b"\xc1", msgspec.msgpack.encode(["opened", 7])):
                asking._writer.write(framed(body))
            asking.tell(Converting(0.5, "weights"))
            await until(lambda: len(heard) == 2)
            assert heard == [NotDecoded("opened"), Converting(0.5, "weights")]
            waiting = asyncio.create_task(asking.ask(WantRestart(1, 20.0), int, timeout_s=20.0))
            await until(lambda: asking._waiting)
            (number,) = asking._waiting
            asking._take_undecodable(["answer", number, "no bytes"])
            with pytest.raises(Unanswered):
                await waiting
            answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            asking._waiting[1000] = answered
            asking._writer.write(framed(msgspec.msgpack.encode(["ask", 1000, ["a question", 7]])))
            assert await answered == b""

    asyncio.run(test())
    assert len(caplog.records) == 4


def test_an_answer_of_another_type_is_none() -> None:
    async def test() -> None:
        async with channels() as (asking, _, _, _):
            with pytest.raises(Unanswered, match="WantRestart"):
                await asking.ask(WantRestart(5, 0.0), dict)
            with pytest.raises(OverflowError):
                await asking.ask(WantRestart(1 << 70, 0.0), int)
            assert asking._waiting == {}

    asyncio.run(test())


def test_before_there_is_an_event_loop() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.sendall(frame(Opened("model", "/tokenizer")) + frame(Converting(0.5, "weights"))[:-1])
        assert read_blocking(other) == Opened("model", "/tokenizer")
        one.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):
            read_blocking(other)
