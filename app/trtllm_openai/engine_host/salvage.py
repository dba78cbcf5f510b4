"""What is known of a message between an HTTP process and a runner that cannot be encoded or decoded.

Messages are taken as `processes.undecodable.report` returns them: a tag, then plain values. The result names
the sequences that cannot go on, so that each fails at once and alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trtllm_openai.engine_host.messages import Failed, Outputs, encode
from trtllm_openai.engines.base import FAILED_ON_REQUEST
from trtllm_openai.generation import StepOutput
from trtllm_openai.processes.undecodable import UNDECODABLE


def lost(request_id: str) -> StepOutput:
    """The last output of a sequence whose message is lost."""
    return StepOutput(request_id, [], "error", error=FAILED_ON_REQUEST)


def submitted_ids(requests: list[object]) -> list[str]:
    """The ids of a `Submit`'s requests; empty if one has none."""
    ids = [request.get("request_id") for request in requests if isinstance(request, dict)]
    found = [request_id for request_id in ids if isinstance(request_id, str)]
    return found if len(found) == len(requests) else []


def from_runner(message: list[object], live: Iterable[str]) -> Outputs | Failed | None:
    """What an HTTP process with these `live` sequences makes of a runner's message.

    `Outputs`: with a last output for each sequence whose own could not be decoded, which may be all of them.
    `Failed`: of a runner of which it is not known what it can do. None: nothing depends on it.
    """
    match message:
        case ["outputs", [*outputs]] if (found := _outputs(outputs)) is not None:
            return Outputs(found)
        case ["ready" | "failed" as what, *_]:
            return Failed(f"its message {what!r} could not be decoded", final=False)
        case ["loading" | "stats", *_]:
            return None
    return Outputs([*map(lost, live)])


def encode_outputs(outputs: list[StepOutput]) -> tuple[bytes, list[str]]:
    """A message for outputs of which one cannot be encoded, and the ids of those that were replaced."""
    kept, replaced = [], []
    for output in outputs:
        try:
            encode(output)
            kept.append(output)
        except Exception:  # whatever value it is
            kept.append(lost(output.request_id))
            replaced.append(output.request_id)
    return encode(Outputs(kept)), replaced


def _outputs(items: list[object]) -> list[StepOutput] | None:
    found = []
    for item in items:
        try:
            found.append(msgspec.convert(item, StepOutput))
        except UNDECODABLE:
            if not (isinstance(item, list) and item and isinstance(item[0], str)):
                return None
            found.append(lost(item[0]))
    return found
