"""One connection to a runner: moves messages and sequences, reports events, judges nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from trtllm_openai.engine_host.messages import (
    Abort,
    Failed,
    FromRunner,
    Held,
    Loading,
    NotDecoded,
    Outputs,
    Prefixes,
    Ready,
    Stats,
    Submit,
    decode_from_runner,
    encode,
)
from trtllm_openai.engine_host.salvage import from_runner, lost
from trtllm_openai.generation import EngineStats, GenerationRequest, StepOutput
from trtllm_openai.processes.address import TcpAddress, connect, parse_address
from trtllm_openai.processes.authentication import (
    HANDSHAKE_TIMEOUT_S,
    AuthenticationError,
    authenticate,
)
from trtllm_openai.processes.framing import FramedSocket
from trtllm_openai.processes.tls import connected
from trtllm_openai.processes.undecodable import UNDECODABLE, report
from trtllm_openai.runners.generation import Generation
from trtllm_openai.runners.state import Endpoint

log = logging.getLogger(__name__)

CONNECT_POLL_S = 0.02
"""Seconds between two attempts to reach a runner that does not listen yet."""
REFUSED_POLL_S = 1.0
"""Seconds before the next attempt when authentication failed."""
FAILED_ON_REQUEST = "the model runner failed on this request, which is not tried again"
"""Error of a request that was alone on a runner whose engine failed."""


@dataclass(frozen=True, slots=True)
class ConnectionEvents:
    """Callbacks of a connection."""

    status: Callable[[RunnerConnection, Loading | Ready | Failed], None]
    """The runner said where it stands."""
    closed: Callable[[RunnerConnection], None]
    """The other end closed the connection; everything that it had sent was handled."""
    adopt: Callable[[GenerationRequest, Generation], bool]
    """Adopt a sequence that was lost before its first token. Returns whether it was adopted. Not called for
    a request that was alone on a runner whose engine failed."""


@dataclass(frozen=True, slots=True)
class SequenceWatch:
    """What routing is told of a connection's sequences. None of it is called for each token."""

    begun: Callable[[str, int], None]
    """A sequence has its first output: its id, and how many prompt tokens were cached."""
    ended: Callable[[str], None]
    """A sequence ended or was aborted."""
    elsewhere: Callable[[int], None]
    """So many sequences on the runner were sent by other processes."""
    held: Callable[[list[Held]], None]
    """Other processes sent prompts with these names to the runner."""


class RunnerConnection:
    """Connects to the runner at `endpoint`, and keeps trying until it listens."""

    def __init__(self, endpoint: Endpoint, events: ConnectionEvents) -> None:
        self.endpoint = endpoint
        self.stats = EngineStats()
        self.oldest_waiting_s = 0.0
        """Seconds that the sequence which waits longest had waited by then, at least."""
        self.elsewhere = 0
        """Sequences on the runner that other processes sent, as of its latest statistics."""
        self.ended = asyncio.Event()
        """The other end has closed the connection."""
        self.progressed_at = 0.0
        """Monotonic time of the latest result, or of the first request since the runner was idle."""
        self.watch: SequenceWatch | None = None
        """Set where there is a choice of runners."""
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._socket: FramedSocket | None = None
        self._generations: dict[str, Generation] = {}
        self._unstarted: dict[str, GenerationRequest] = {}  # no token yet: may begin again elsewhere
        self._connecting: asyncio.Task[None] | None = None
        self._engine_failed = False

    @property
    def load(self) -> int:
        """Live sequences that were sent through this connection."""
        return len(self._generations)

    @property
    def connected(self) -> bool:
        """Whether the connection stands (and, over TCP, is authenticated and encrypted)."""
        return self._socket is not None

    def open(self) -> None:
        """Begin to connect."""
        self._connecting = asyncio.create_task(self._connect())

    def close(self, message: str, *, lost: bool) -> None:
        """Close it. Live sequences end with this error, or are adopted if the runner was `lost`."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            for body in self._rest(self._socket):  # outputs sent before the end still count
                self._handle(body)
            self._socket.close()
            self._socket = None
        self._end_live(message, lost=lost)

    def submit(
        self, requests: list[GenerationRequest], generation: Generation, held: list[Held] | None = None
    ) -> None:
        """Send requests to the engine; their deltas go to `generation`. `held`: see `Submit`.

        Raises what the encoder does if they hold a value that no message can; nothing is changed then.
        """
        body = encode(Submit.of(requests, held))
        if not self._generations:
            self.progressed_at = time.monotonic()
        for request in requests:
            self._generations[request.request_id] = generation
            self._unstarted[request.request_id] = request
        self._send(body)

    def abort(self, request_ids: list[str]) -> None:
        """End sequences within one engine step and forget them at once."""
        for request_id in request_ids:
            self._unstarted.pop(request_id, None)
        known = [
            request_id for request_id in request_ids if self._generations.pop(request_id, None) is not None
        ]
        if known:
            self._send(encode(Abort(known)))
            if self.watch is not None:
                for request_id in known:
                    self.watch.ended(request_id)

    async def _connect(self) -> None:
        address = parse_address(self.endpoint.address)
        warned = False
        while True:
            try:
                connection = await connect(address)
            except OSError:
                await asyncio.sleep(CONNECT_POLL_S)
                continue
            try:
                if isinstance(address, TcpAddress):
                    await authenticate(connection, self.endpoint.secret)
                    if self.endpoint.identity:
                        connection = await connected(connection, self.endpoint.identity, HANDSHAKE_TIMEOUT_S)
                break
            except (OSError, TimeoutError) as error:
                connection.close()
                if not warned:
                    reason = str(error) if isinstance(error, AuthenticationError) else type(error).__name__
                    log.warning("the runner at %s was not authenticated: %s", address, reason)
                    warned = True
            except asyncio.CancelledError:
                connection.close()
                raise
            await asyncio.sleep(REFUSED_POLL_S)
        end = FramedSocket(connection)
        self._socket = end
        self._loop.add_reader(end.fileno(), self._receive, end)

    def _send(self, body: bytes) -> None:
        """Send a message without waiting. Does nothing before the connection stands."""
        if self._socket is not None:
            self._socket.send(body)
            if self._socket.blocked:
                self._loop.add_writer(self._socket.fileno(), self._flush, self._socket)

    def _flush(self, end: FramedSocket) -> None:
        end.flush()
        if not end.blocked:
            self._loop.remove_writer(end.fileno())

    def _receive(self, end: FramedSocket) -> None:
        """Handle some of what has arrived, so that other callbacks get their turn."""
        for body in end.receive():
            self._handle(body)
        if end.gone and not self.ended.is_set() and self._socket is end:
            self._loop.remove_reader(end.fileno())
            self._loop.remove_writer(end.fileno())
            self.ended.set()
            self._events.closed(self)

    def _rest(self, end: FramedSocket) -> list[bytes]:
        bodies: list[bytes] = []
        while more := end.receive():
            bodies += more
        return bodies

    def _handle(self, body: bytes) -> None:
        try:
            message: FromRunner | None = decode_from_runner(body)
        except UNDECODABLE as error:
            message = from_runner(report("a runner", body, error), self._generations)
            if isinstance(message, Outputs):
                self._abort_failed(message.outputs)
        match message:
            case Outputs(outputs):
                self.progressed_at = time.monotonic()
                self._dispatch(outputs)
            case Stats(stats, oldest_s):
                if stats.steps != self.stats.steps:  # e.g. in the middle of a long prompt
                    self.progressed_at = time.monotonic()
                self.stats, self.oldest_waiting_s = stats, oldest_s
                self.elsewhere = max(0, stats.running + stats.waiting - len(self._generations))
                if self.watch is not None:
                    self.watch.elsewhere(self.elsewhere)
            case Prefixes(held):
                if self.watch is not None:
                    self.watch.held(held)
            case NotDecoded():
                outputs = [*map(lost, self._unstarted)]
                self._abort_failed(outputs)
                self._dispatch(outputs)
            case None:
                pass
            case _:
                self._engine_failed |= isinstance(message, Failed)
                self._events.status(self, message)

    def _abort_failed(self, outputs: list[StepOutput]) -> None:
        """Have the runner end the sequences that failed here."""
        self._send(encode(Abort([one.request_id for one in outputs if one.finish_reason == "error"])))

    def _dispatch(self, outputs: list[StepOutput]) -> None:
        """Give each delta to its generation, then call each generation's listener, once."""
        generations, unstarted = self._generations, self._unstarted
        listening = []
        for output in outputs:
            generation = generations.get(output.request_id)
            if unstarted and (output.token_ids or output.finish_reason is not None):
                request = unstarted.pop(output.request_id, None)
                if request is not None and self.watch is not None:
                    self.watch.begun(output.request_id, output.cached_tokens)
            if generation is None:
                continue
            if output.finish_reason is not None:
                del generations[output.request_id]
                if self.watch is not None:
                    self.watch.ended(output.request_id)
            if generation.put(output):
                listening.append(generation)
        for generation in listening:
            generation.listener()

    def _end_live(self, message: str, *, lost: bool) -> None:
        live, self._generations = self._generations, {}
        unstarted, self._unstarted = self._unstarted, {}
        # An engine that fails with one request on it would most likely fail on it again, elsewhere.
        alone = self._engine_failed and not self.elsewhere and len(set(map(id, live.values()))) == 1
        if lost and alone:
            message = FAILED_ON_REQUEST
        for request_id, generation in live.items():
            request = unstarted.get(request_id)
            if lost and not alone and request is not None and self._events.adopt(request, generation):
                continue
            generation.fail(request_id, message)
