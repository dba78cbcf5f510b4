"""What HTTP workers and a ModelRunner say to each other: msgpack over a Unix socket, see `processes.framing`.

The runner listens, each HTTP worker connects, upon which the runner tells it where it stands (`Loading` or
`Ready`). A worker whose connection ends is gone, and so are its sequences. Every message is a tagged array;
nothing is pickled.
"""

from __future__ import annotations

import msgspec

from trtllm_openai.engine_host.loader import ModelFiles
from trtllm_openai.generation import EngineInfo, EngineStats, GenerationRequest, StepOutput


class Submit(msgspec.Struct, tag="submit", array_like=True):
    """Start these sequences. Each is answered by `Outputs` until one of its deltas has a finish_reason."""

    requests: list[GenerationRequest]


class Abort(msgspec.Struct, tag="abort", array_like=True):
    """End these sequences within one engine step. Ids that are unknown or finished are ignored."""

    request_ids: list[str]


class Loading(msgspec.Struct, tag="loading", array_like=True):
    """The engine is loading: `fraction` (0..1) of it is done, `what` names the present part."""

    fraction: float
    what: str


class Ready(msgspec.Struct, tag="ready", array_like=True):
    """The engine is loaded and takes requests."""

    info: EngineInfo


class Outputs(msgspec.Struct, tag="outputs", array_like=True):
    """Everything one engine step made for the worker that receives it."""

    outputs: list[StepOutput]


class Stats(msgspec.Struct, tag="stats", array_like=True):
    """The engine's gauges and totals; sent when they changed, at most every `STATS_INTERVAL`."""

    stats: EngineStats


class Failed(msgspec.Struct, tag="failed", array_like=True):
    """The runner cannot go on and exits. `message` is one sentence for the operator.

    `final`: starting it again would fail in the same way (a bad checkpoint, not a crash).
    """

    message: str
    final: bool


ToRunner = Submit | Abort
FromRunner = Loading | Ready | Outputs | Stats | Failed

CANNOT_START = 3
"""Exit status of a runner whose engine could not be loaded as configured."""

STATS_INTERVAL = 0.1
"""Seconds between two `Stats` messages at least."""

encode = msgspec.msgpack.Encoder().encode
decode_to_runner = msgspec.msgpack.Decoder(ToRunner).decode
decode_from_runner = msgspec.msgpack.Decoder(FromRunner).decode


class LaunchSpec(msgspec.Struct):
    """What a runner process is told at its start, as one JSON line on standard input.

    The pipe stays open afterwards: its end tells the runner that the process owning it is gone.
    """

    address: str
    """Path of the Unix socket to listen on, e.g. /run/…/runner-0.sock"""
    index: int
    settings: dict[str, object]
    files: ModelFiles
    gpus: str | None = None
    """CUDA_VISIBLE_DEVICES of the process; None leaves it as it is."""
    command: tuple[str, ...] = ()
    """What starts the runner in leader mode, e.g. mpirun -n 4."""
