"""Messages between the supervisor and HTTP workers: tagged msgpack arrays, see `serve.workers.channel`."""

from __future__ import annotations

import msgspec

from trtllm_openai.api.responses.store import Operation
from trtllm_openai.runners.state import RunnerReport, RunnerUnresponsive
from trtllm_openai.telemetry.values import Snapshot


class Begin(msgspec.Struct, tag="begin", array_like=True):
    """First message to a worker. `listener` and `counters` are descriptors that it inherited."""

    settings: dict[str, object]
    worker: str
    row: int
    workers: int
    created: int
    listener: int
    counters: int


class Converting(msgspec.Struct, tag="converting", array_like=True):
    """To workers, before `Opened`: progress of converting the checkpoint (0..1), and the current part."""

    fraction: float
    what: str


class Opened(msgspec.Struct, tag="opened", array_like=True):
    """To workers: the model was found. A `RunnerReport` follows, and one after each transition."""

    name: str
    tokenizer_dir: str
    sampling_defaults: dict[str, int | float] = {}  # top_k stays an integer


class Report(msgspec.Struct, tag="report", array_like=True):
    """From a worker, every `REPORT_INTERVAL` and when `ready` changed: its heartbeat, with its metrics."""

    snapshot: Snapshot
    ready: bool


class WantMetrics(msgspec.Struct, tag="metrics", array_like=True):
    """To the supervisor: the merged `Snapshot` of all workers. To a worker: its own."""


class WantOverview(msgspec.Struct, tag="overview", array_like=True):
    """To the supervisor: the `Overview` of the whole server."""


class WantFailures(msgspec.Struct, tag="failures", array_like=True):
    """To a worker: its list of `Failure`s."""


class WantRunners(msgspec.Struct, tag="want_runners", array_like=True):
    """To the supervisor: its `RunnerReport`."""


class WantRestart(msgspec.Struct, tag="restart", array_like=True):
    """To the supervisor: replace a runner, drained for `drain_timeout_s` at most. False: no such runner."""

    index: int
    drain_timeout_s: float


class WantStored(msgspec.Struct, tag="stored", array_like=True):
    """To the supervisor, and from it to the worker `owner`: a stored response of `key` as JSON, or None."""

    owner: str
    operation: Operation
    response_id: str
    key: str


Question = WantMetrics | WantOverview | WantFailures | WantRunners | WantRestart | WantStored


class Ask(msgspec.Struct, tag="ask", array_like=True):
    """A question, to be answered under its number."""

    number: int
    question: Question


class Answer(msgspec.Struct, tag="answer", array_like=True):
    """`result`: msgpack of the type that the question documents; empty if it could not be answered."""

    number: int
    result: bytes


class NotDecoded(msgspec.Struct, tag="not_decoded", array_like=True):
    """A one-way message with this tag arrived and could not be decoded. Made by its receiver, never sent."""

    of: str


Message = Begin | Converting | Opened | RunnerReport | Report | RunnerUnresponsive | Ask | Answer | NotDecoded

REPORT_INTERVAL = 1.0
"""Seconds between two `Report`s of a worker."""

CANNOT_SERVE = 2
"""Exit status of a worker that would fail again after a restart; it has logged the reason."""

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Message).decode
