"""A run as one complete answer for each choice."""

import asyncio
from collections.abc import Callable

import pytest

from tests.unit.api.test_run import Check, Fixture
from tests.unit.api.test_run import check as check
from trtllm_openai.api.collect import Answer, Call, collect, consumed
from trtllm_openai.errors import ShuttingDown
from trtllm_openai.text.events import CallArguments, CallStart, Content, Reasoning


def test_deltas_become_one_answer(check: Callable[[Check], None]) -> None:
    async def body(make: Callable[..., Fixture]) -> None:
        one = make(stop=("STOP",))
        done = collect(one.run)
        one.put("Hello")
        assert not done.done()
        one.put(" worldSTOP more")
        (answer,) = await done
        assert (answer.content, answer.delta.text) == ("Hello world", "Hello world")
        assert (answer.delta.finish_reason, answer.delta.stop_reason) == ("stop", "STOP")
        one.run.close()

    check(body)


def test_an_error_takes_the_place_of_the_answer(check: Callable[[Check], None]) -> None:
    async def body(make: Callable[..., Fixture]) -> None:
        one = make()
        done = collect(one.run)
        one.put("Hello")
        one.run.interrupt(ShuttingDown())
        with pytest.raises(ShuttingDown):
            await done
        one.run.close()

    check(body)


def test_deltas_are_passed_on_until_the_end(check: Callable[[Check], None]) -> None:
    async def body(make: Callable[..., Fixture]) -> None:
        one = make()
        texts: list[str] = []
        done = consumed(one.run, lambda deltas: texts.extend(delta.text for _, delta in deltas))
        one.put("Hello")
        assert not done.done()
        one.put(" world", "stop")
        await done
        assert "".join(texts) == "Hello world"
        one.run.close()
        failed = make()
        done = consumed(failed.run, lambda _: None)
        failed.run.interrupt(ShuttingDown())
        with pytest.raises(ShuttingDown):
            await done
        failed.run.close()

    check(body)


def test_nobody_waits_any_more(check: Callable[[Check], None]) -> None:
    async def body(make: Callable[..., Fixture]) -> None:
        one = make()
        done = collect(one.run)
        done.cancel()
        await asyncio.sleep(0)
        one.put("Hello", "stop")  # must not set a cancelled future
        assert done.cancelled()
        one.run.close()

    check(body)


def test_parsed_events() -> None:
    answer = Answer(None)  # type: ignore[arg-type]
    for event in (
        Reasoning("hm"),
        Content("a"),
        CallStart(0, "id0", "f"),
        CallArguments(0, '{"x"'),
        CallStart(1, "id1", "g"),
        CallArguments(1, "{}"),
        CallArguments(0, ": 1}"),
        Content("b"),
    ):
        answer.add(event)
    assert (answer.reasoning, answer.content) == ("hm", "ab")
    assert answer.calls == [Call("id0", "f", '{"x": 1}'), Call("id1", "g", "{}")]
