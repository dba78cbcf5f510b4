"""A Job's deltas gathered into one whole answer for each choice."""

from __future__ import annotations

from app.api.job import Job
from app.text.choice import TextDelta


async def collect(job: Job) -> list[TextDelta]:
    """Run the job to its end; one delta for each choice, in their order, that holds everything."""
    texts: list[list[str]] = [[] for _ in job.choices]
    answers = [TextDelta() for _ in job.choices]
    async for deltas in job.deltas():
        for choice, delta in deltas:
            answer = answers[choice.index]
            texts[choice.index].append(delta.text)
            if delta.logprobs:
                answer.logprobs = answer.logprobs or []
                answer.logprobs += delta.logprobs
                answer.text_offsets += delta.text_offsets
            if delta.finish_reason is not None:
                answer.finish_reason = delta.finish_reason
                answer.stop_reason = delta.stop_reason
    for answer, pieces in zip(answers, texts, strict=True):
        answer.text = "".join(pieces)
    return answers
