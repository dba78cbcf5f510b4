"""The runner's loop: receive, submit, step, send. One thread, no locks.

Idle, it sleeps in poll() until a message comes. Busy, it takes what has arrived without waiting and steps
the engine; each worker gets one message a step with every delta that is its own.
"""

from __future__ import annotations

import logging
import time

import msgspec
import zmq

from app.engines.base import Engine
from app.generation import EngineStats, GenerationRequest, InvalidRequest, StepOutput
from app.runner.memory import release_free_memory
from app.runner.messages import (
    STATS_INTERVAL,
    Abort,
    Detach,
    Failed,
    FromRunner,
    Hello,
    Loading,
    Outputs,
    Ready,
    Stats,
    Submit,
    decode_to_runner,
    encode,
)

log = logging.getLogger(__name__)

STEP_TIMEOUT = 0.02
"""Seconds an engine may hold the loop without a new token; bounds how long a new request waits."""
IDLE_POLL_MS = 1000
FAREWELL_MS = 2000


class RunnerLoop:
    """Connects an engine to its workers. `owner_fd` becomes readable when the owning process is gone."""

    def __init__(self, socket: zmq.Socket[bytes], owner_fd: int) -> None:
        self._socket = socket
        self._owner_fd = owner_fd
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(owner_fd, zmq.POLLIN)
        self._state: FromRunner = Loading(0.0, "starting")
        self._workers: dict[bytes, None] = {}
        self._gone: set[bytes] = set()  # workers that may yet be heard: each sent through a socket of its own
        self._owner: dict[str, bytes] = {}  # live request id -> worker
        self._sent = EngineStats()
        self._stats_due = 0.0
        self._stop = False

    def progress(self, fraction: float, what: str) -> None:
        """Tell the workers how far loading is. Raises SystemExit when nobody waits for it any more."""
        self._set_state(Loading(fraction, what))
        self._receive(None)
        if self._stop:
            raise SystemExit(0)

    def fail(self, message: str, *, final: bool) -> None:
        """Say why this runner ends, also to a worker that is only just attaching."""
        if not self._workers:
            self._poller.poll(FAREWELL_MS)
        self._receive(None)
        self._set_state(Failed(message, final))

    def run(self, engine: Engine) -> None:
        """Serve until stopped. An exception of `engine.step` passes through: the engine is then unusable."""
        self._set_state(Ready(engine.info))
        worked = True
        while not self._stop:
            if not self._owner:
                self._send_stats(engine, now=True)
                if not self._poller.poll(IDLE_POLL_MS) and worked:
                    release_free_memory()
                    worked = False
            self._receive(engine)
            if self._owner:
                worked = True
                self._send(engine.step(STEP_TIMEOUT))
                self._send_stats(engine, now=False)

    def stop(self) -> None:
        """End `run` after the step under way."""
        self._stop = True

    def _set_state(self, state: FromRunner) -> None:
        self._state = state
        frame = encode(state)
        for worker in self._workers:
            self._socket.send_multipart([worker, frame])

    def _receive(self, engine: Engine | None) -> None:
        ready = dict(self._poller.poll(0))
        if self._owner_fd in ready:
            log.info("the owning process is gone; ending")
            self._stop = True
        while self._socket.poll(0, zmq.POLLIN):
            worker, frame = self._socket.recv_multipart()
            try:
                message = decode_to_runner(frame)
            except msgspec.DecodeError as error:
                log.error("undecodable message of %d bytes dropped: %s", len(frame), error)
                continue
            if worker in self._gone:
                continue
            match message:
                case Hello():
                    self._workers[worker] = None
                    self._socket.send_multipart([worker, encode(self._state)])
                case Submit(requests):
                    self._submit(engine, worker, requests)
                case Abort(request_ids):
                    for request_id in request_ids:
                        if engine is not None and request_id in self._owner:
                            engine.abort(request_id)
                case Detach(name):
                    self._detach(engine, name.encode())

    def _detach(self, engine: Engine | None, gone: bytes) -> None:
        self._gone.add(gone)
        self._workers.pop(gone, None)
        for request_id, worker in self._owner.items():
            if worker == gone and engine is not None:
                engine.abort(request_id)

    def _submit(self, engine: Engine | None, worker: bytes, requests: list[GenerationRequest]) -> None:
        refused = []
        for request in requests:
            try:
                if engine is None:
                    raise InvalidRequest("the engine is still loading")
                engine.submit(request)
                self._owner[request.request_id] = worker
            except InvalidRequest as error:
                refused.append(
                    StepOutput(
                        request.request_id,
                        [],
                        "error",
                        error=str(error),
                        error_code=error.code,
                        error_param=error.param,
                    )
                )
        if refused:
            self._socket.send_multipart([worker, encode(Outputs(refused))])

    def _send(self, outputs: list[StepOutput]) -> None:
        by_worker: dict[bytes, list[StepOutput]] = {}
        for output in outputs:
            worker = self._owner.get(output.request_id)
            if worker is None:
                continue
            by_worker.setdefault(worker, []).append(output)
            if output.finish_reason:
                del self._owner[output.request_id]
        for worker, mine in by_worker.items():
            self._socket.send_multipart([worker, encode(Outputs(mine))])

    def _send_stats(self, engine: Engine, *, now: bool) -> None:
        clock = time.monotonic()
        if not now and clock < self._stats_due:
            return
        self._stats_due = clock + STATS_INTERVAL
        stats = engine.stats()
        if stats == self._sent:
            return
        self._sent = msgspec.structs.replace(stats)
        frame = encode(Stats(stats))
        for worker in self._workers:
            self._socket.send_multipart([worker, frame])
