"""A Job's deltas gathered into one whole answer for each choice."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.api.job import Choice, Job
from app.text.choice import TextDelta
from app.text.events import CallArguments, CallStart, Content, Event, Reasoning


@dataclass(slots=True)
class Call:
    """A whole tool call."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Answer:
    """A whole choice. `delta` holds its text, log-probabilities and end.

    Where no parser takes the text apart, `content` is the text.
    """

    choice: Choice
    delta: TextDelta = field(default_factory=TextDelta)
    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Add what a parser found next."""
        match event:
            case Content(text):
                self.content += text
            case Reasoning(text):
                self.reasoning += text
            case CallStart(_, call_id, name):
                self.calls.append(Call(call_id, name))
            case CallArguments(index, text):
                self.calls[index].arguments += text


async def collect(job: Job) -> list[Answer]:
    """Run the job to its end; one answer for each choice, in their order."""
    texts: list[list[str]] = [[] for _ in job.choices]
    answers = [Answer(choice) for choice in job.choices]
    async for deltas in job.deltas():
        for choice, delta in deltas:
            answer = answers[choice.index]
            whole = answer.delta
            texts[choice.index].append(delta.text)
            for event in delta.events:
                answer.add(event)
            if delta.logprobs:
                whole.logprobs = whole.logprobs or []
                whole.logprobs += delta.logprobs
                whole.text_offsets += delta.text_offsets
            if delta.finish_reason is not None:
                whole.finish_reason = delta.finish_reason
                whole.stop_reason = delta.stop_reason
    for answer, pieces in zip(answers, texts, strict=True):
        answer.delta.text = "".join(pieces)
        if not answer.choice.decoder.parsed:
            answer.content = answer.delta.text
    return answers
