"""What supervisor and workers say to each other: tagged msgpack arrays, see `serve.workers.channel`."""

from __future__ import annotations

import msgspec

from trtllm_openai.runners.state import RunnerReport
from trtllm_openai.serve.deployment import Operation
from trtllm_openai.telemetry.values import Snapshot


class Begin(msgspec.Struct, tag="begin", array_like=True):
    """First word to a worker: what it is. `listener` and `board` are descriptors that it inherited."""

    settings: dict[str, object]
    worker: str
    row: int
    workers: int
    created: int
    listener: int
    board: int


class Converting(msgspec.Struct, tag="converting", array_like=True):
    """To workers, before `Opened`: how far the model is, and what is being done to it."""

    fraction: float
    what: str


class Opened(msgspec.Struct, tag="opened", array_like=True):
    """To workers: the model was found. A `RunnerReport` follows, and another whenever a runner changes."""

    name: str
    tokenizer_dir: str


class Report(msgspec.Struct, tag="report", array_like=True):
    """From a worker, every `REPORT_INTERVAL` and when `ready` changed: it lives, and has counted this."""

    snapshot: Snapshot
    ready: bool


class RunnerUnresponsive(msgspec.Struct, tag="quiet", array_like=True):
    """From a worker: it waits for a result of the runner at `address`. Empty `words`: not any more."""

    address: str
    words: str
    seconds: float


class WantMetrics(msgspec.Struct, tag="metrics", array_like=True):
    """To the supervisor: everyone's `Snapshot`. To a worker: its own."""


class WantRunners(msgspec.Struct, tag="want_runners", array_like=True):
    """To the supervisor: its `RunnerReport`."""


class WantRestart(msgspec.Struct, tag="restart", array_like=True):
    """To the supervisor: replace a runner, what runs on it has `patience` seconds. False: no such one."""

    index: int
    patience: float


class WantStored(msgspec.Struct, tag="stored", array_like=True):
    """To the supervisor, and from it to the worker `owner`: a stored response as JSON, or None."""

    owner: str
    operation: Operation
    response_id: str


Question = WantMetrics | WantRunners | WantRestart | WantStored


class Ask(msgspec.Struct, tag="ask", array_like=True):
    """A question, to be answered under its number."""

    number: int
    question: Question


class Answer(msgspec.Struct, tag="answer", array_like=True):
    """`result` is msgpack of what the question says; empty when it could not be answered."""

    number: int
    result: bytes


Message = Begin | Converting | Opened | RunnerReport | Report | RunnerUnresponsive | Ask | Answer

REPORT_INTERVAL = 1.0

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Message).decode
