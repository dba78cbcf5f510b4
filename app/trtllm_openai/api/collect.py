"""Collects the deltas of a run into one complete result per choice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from trtllm_openai.api.choice import Choice, Delta
from trtllm_openai.api.run import RequestRun
from trtllm_openai.text.choice import TextDelta
from trtllm_openai.text.events import CallArguments, CallStart, Content, Event, Reasoning


@dataclass(slots=True)
class Call:
    """A complete tool call; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Answer:
    """A complete choice. `delta` holds its text, log-probabilities and finish reason.

    Without an output parser `content` is the text.
    """

    choice: Choice
    delta: TextDelta = field(default_factory=TextDelta)
    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Add the parser's next event."""
        match event:
            case Content(text):
                self.content += text
            case Reasoning(text):
                self.reasoning += text
            case CallStart(_, call_id, name):
                self.calls.append(Call(call_id, name))
            case CallArguments(index, text):
                self.calls[index].arguments += text


def collect(run: RequestRun) -> asyncio.Future[list[Answer]]:
    """Start the run. The future's result, at the end, has one `Answer` per choice, ordered by index."""
    collector = _Collector(run.choices)
    run.start(collector)
    return collector.done


def consumed(run: RequestRun, take: Callable[[list[Delta]], object]) -> asyncio.Future[None]:
    """Start the run and pass its deltas to `take`. The future completes at its end, with its error if any."""
    consumer = _Passing(take)
    run.start(consumer)
    return consumer.done


class _Passing:
    """Implements `api.run.Consumer`."""

    def __init__(self, take: Callable[[list[Delta]], object]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._take = take

    def consume(self, deltas: list[Delta], last: bool) -> None:
        self._take(deltas)

    def ended(self, error: Exception | None) -> None:
        if self.done.done():  # cancelled
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)


class _Collector:
    """Implements `api.run.Consumer`."""

    def __init__(self, choices: list[Choice]) -> None:
        self.done: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self._answers = [Answer(choice) for choice in choices]
        self._texts: list[list[str]] = [[] for _ in choices]

    def consume(self, deltas: list[Delta], last: bool) -> None:
        for choice, delta in deltas:
            answer = self._answers[choice.index]
            whole = answer.delta
            self._texts[choice.index].append(delta.text)
            for event in delta.events:
                answer.add(event)
            if delta.logprobs:
                whole.logprobs = whole.logprobs or []
                whole.logprobs += delta.logprobs
                whole.text_offsets += delta.text_offsets
            if delta.token_ids is not None:
                whole.token_ids = whole.token_ids or []
                whole.token_ids += delta.token_ids
            if delta.finish_reason is not None:
                whole.finish_reason = delta.finish_reason
                whole.stop_reason = delta.stop_reason

    def ended(self, error: Exception | None) -> None:
        if self.done.done():  # cancelled
            return
        if error is not None:
            self.done.set_exception(error)
            return
        for answer, pieces in zip(self._answers, self._texts, strict=True):
            answer.delta.text = "".join(pieces)
            if not answer.choice.decoder.parsed:
                answer.content = answer.delta.text
        self.done.set_result(self._answers)
