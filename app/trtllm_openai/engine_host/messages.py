"""Messages between HTTP processes and a runner: msgpack over a socket, see `processes.framing`.

The runner listens, each HTTP process connects (the runner calls it a frontend) and is told the present state,
`Loading` or `Ready`. When the connection ends, the sequences of that frontend are aborted. Every message is a
tagged array; nothing is pickled.
"""

from __future__ import annotations

import msgspec

from trtllm_openai.engine_host.loader import ModelFiles
from trtllm_openai.generation import EngineInfo, EngineStats, GenerationRequest, StepOutput


class Held(msgspec.Struct, array_like=True, frozen=True):
    """Prefixes that a runner holds from now on, by the names of `runners.routing`, to which alone they mean
    something: those of one prompt from level `first` on, or of its session (-1)."""

    first: int
    names: list[int]


class Submit(msgspec.Struct, tag="submit", array_like=True):
    """Start these sequences. Each is answered by `Outputs` until one of its deltas has a finish_reason.

    A request without a prompt has that of the request before it: choices share their prompt. `held`: what the
    sender takes the runner to hold then, for the other frontends (`Prefixes`).
    """

    requests: list[GenerationRequest]
    held: list[Held] = []

    @classmethod
    def of(cls, requests: list[GenerationRequest], held: list[Held] | None = None) -> Submit:
        """The message for requests, those with the same list as their prompt one after the other."""
        if len(requests) == 1:
            return cls(requests, held or [])
        prompts = [None, *(request.prompt_token_ids for request in requests)]
        return cls(
            [
                msgspec.structs.replace(request, prompt_token_ids=[])
                if request.prompt_token_ids is before
                else request
                for request, before in zip(requests, prompts, strict=False)
            ],
            held or [],
        )

    def with_prompts(self) -> list[GenerationRequest]:
        """The requests, each with its prompt; those that share one have the same list."""
        prompt: list[int] = []
        found = []
        for request in self.requests:
            if request.prompt_token_ids:
                prompt = request.prompt_token_ids
            elif prompt:
                request = msgspec.structs.replace(request, prompt_token_ids=prompt)
            found.append(request)
        return found


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
    """All outputs of one engine step for the frontend that receives it."""

    outputs: list[StepOutput]


class Stats(msgspec.Struct, tag="stats", array_like=True):
    """The engine's gauges and totals; sent when they changed, at most every `STATS_INTERVAL`.

    `oldest_s`: seconds that the sequence which waits longest has waited, at least; 0: none waits for room.
    """

    stats: EngineStats
    oldest_s: float = 0.0


class Prefixes(msgspec.Struct, tag="prefixes", array_like=True):
    """What other frontends sent with `Submit.held`: the latest of it when one attaches, then news."""

    held: list[Held]


class Failed(msgspec.Struct, tag="failed", array_like=True):
    """The runner cannot go on and exits. `message` tells the operator what it did, or the engine's error.

    `final`: starting it again would fail in the same way (a bad checkpoint, not a crash).
    """

    message: str
    final: bool


class NotDecoded(msgspec.Struct, tag="not_decoded", array_like=True):
    """A message of this frontend could not be decoded and names no sequences; it may have been a `Submit`."""


ToRunner = Submit | Abort
FromRunner = Loading | Ready | Outputs | Stats | Prefixes | Failed | NotDecoded

CANNOT_START = 3
"""Exit status of a runner whose engine could not be loaded as configured."""

STATS_INTERVAL = 0.1
"""Seconds between two `Stats` messages at least."""

encode = msgspec.msgpack.Encoder().encode
decode_to_runner = msgspec.msgpack.Decoder(ToRunner).decode
decode_from_runner = msgspec.msgpack.Decoder(FromRunner).decode


SPEC_VARIABLE = "OMPI_TRTLLM_OPENAI_LAUNCH_SPEC"
"""Environment variable with the `LaunchSpec` as JSON, where standard input does not reach every rank.

Open MPI's mpirun hands variables on to other machines if their names begin with OMPI_; srun and Hydra hand on
all of them.
"""


class LaunchSpec(msgspec.Struct):
    """Everything a runner process is told at its start: one JSON line on standard input, or `SPEC_VARIABLE`.

    Standard input stays open afterwards: its end tells the runner that the process that owns it is gone.
    """

    address: str
    """Where to listen: unix:/path or tcp://host:port"""
    index: int
    settings: dict[str, object]
    files: ModelFiles
    gpus: str | None = None
    """CUDA_VISIBLE_DEVICES of the process; None leaves it as it is."""
    command: tuple[str, ...] = ()
    """Command that starts the ranks of the runner, e.g. mpirun -n 4."""
    has_ranks: bool = False
    """Its engine consists of MPI processes, started by `command` or by itself: they are watched."""
    secret: str = ""
    """Shared secret that authenticates TCP connections."""
    orphan_timeout_s: float | None = None
    """Seconds without a frontend after which it ends; None: it waits for the end of standard input."""
    identity: str = ""
    """Key and certificate of TLS on them (`processes.tls`); empty: they are not encrypted."""

    def __repr__(self) -> str:
        return f"LaunchSpec(index={self.index}, address={self.address!r})"
