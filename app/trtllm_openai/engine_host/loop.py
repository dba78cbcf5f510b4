"""The runner's loop: receive, submit, step, send. One thread, no locks.

Requests of API keys reach the engine through a fair queue, which is made when the first one comes.

What cannot be decoded or sent ends its own sequences, with an error, and nothing else.

Idle, it sleeps in poll() until a message comes. Busy, it takes what has arrived without waiting and steps
the engine; each frontend (an HTTP process) gets one message per step with all of its deltas.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from itertools import islice

import msgspec

from trtllm_openai.engine_host.fair_queue import FairQueue
from trtllm_openai.engine_host.frontends import Frontends
from trtllm_openai.engine_host.messages import (
    STATS_INTERVAL,
    Abort,
    Failed,
    FromRunner,
    Loading,
    NotDecoded,
    Outputs,
    Prefixes,
    Ready,
    Stats,
    Submit,
    decode_to_runner,
    encode,
)
from trtllm_openai.engine_host.prefix_news import PrefixNews
from trtllm_openai.engine_host.salvage import encode_outputs, lost, submitted_ids
from trtllm_openai.engines.base import FAILED_ON_REQUEST, Engine, Interruptible, refusal
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import EngineStats, GenerationRequest, StepOutput
from trtllm_openai.processes.framing import FramedSocket
from trtllm_openai.processes.memory import release_free_memory
from trtllm_openai.processes.undecodable import UNDECODABLE, report, sendable, total

log = logging.getLogger(__name__)

STEP_TIMEOUT_S = 0.02
"""Seconds an engine may hold the loop without a new token; bounds how long a new request waits."""
IDLE_WAIT = 1.0
FAILURE_NOTICE_TIMEOUT_S = 2.0
"""Seconds for a first frontend to attach and be told why this runner ends."""


class RunnerLoop:
    """Connects an engine to its frontends, until it is stopped or its owner is gone."""

    def __init__(self, frontends: Frontends, orphan_timeout_s: float | None = None) -> None:
        """`orphan_timeout_s`: see `LaunchSpec`."""
        self._frontends = frontends
        self._orphan_timeout_s = orphan_timeout_s
        self._attended_at = time.monotonic()  # when there last was a frontend
        self._state: FromRunner = Loading(0.0, "starting")
        self._live: dict[str, tuple[FramedSocket, float]] = {}  # request id -> frontend, and when it came
        self._fair: FairQueue | None = None
        self._news = PrefixNews()
        self._sent = EngineStats()
        self._stats_due = 0.0
        self._stop = False

    def progress(self, fraction: float, what: str) -> None:
        """Tell the frontends the progress of loading. Raises SystemExit when the owner is gone."""
        self._set_state(Loading(fraction, sendable(what)))
        self._receive(None)
        if self._stop:
            raise SystemExit(0)

    def fail(self, message: str, *, final: bool) -> None:
        """Tell the frontends why this runner ends; wait for one if none is attached yet."""
        deadline = time.monotonic() + FAILURE_NOTICE_TIMEOUT_S
        self._receive(None)
        while not (self._frontends.attached or self._stop) and (left := deadline - time.monotonic()) > 0:
            self._frontends.wait(left)
            self._receive(None)
        self._set_state(Failed(sendable(message), final))

    def run(self, engine: Engine) -> None:
        """Serve until stopped. An exception of `engine.step` passes through: the engine is then unusable."""
        self._set_state(Ready(engine.info))
        worked = True
        while not self._stop:
            if not self._live:
                self._send_stats(engine, now=True)
                if not self._frontends.wait(IDLE_WAIT) and worked:
                    release_free_memory()
                    worked = False
            self._receive(engine)
            if self._live:
                worked = True
                if self._fair is not None:
                    self._feed(engine, self._fair)
                outputs = engine.step(STEP_TIMEOUT_S)
                if self._fair is not None:
                    self._fair.stepped(outputs)
                self._send(engine, outputs)
                self._send_stats(engine, now=False)

    def stop(self) -> None:
        """End `run` after the step under way."""
        self._stop = True

    def _set_state(self, state: FromRunner) -> None:
        self._state = state
        self._frontends.send_all(encode(state))

    def _look(self, engine: Interruptible, fair: FairQueue) -> None:
        """In the midst of a step: begin with what has arrived and goes first."""
        if not (fair.shared and self._frontends.wait(0)):
            return
        self._receive(engine)
        self._feed(engine, fair)
        if outputs := engine.step_first():
            fair.began(outputs)
            self._send(engine, outputs)

    def _receive(self, engine: Engine | None) -> None:
        for frontend, body in self._frontends.poll():
            if body is not None:
                self._handle(engine, frontend, body)
            elif frontend.gone:
                self._abort(engine, [mine for mine, (owner, _) in self._live.items() if owner is frontend])
                self._news.forget(frontend)
            else:
                self._frontends.send(frontend, encode(self._state))
                if kept := self._news.kept():
                    self._frontends.send(frontend, encode(Prefixes(kept)))
        if self._orphan_timeout_s is not None:
            now = time.monotonic()
            if self._frontends.attached:
                self._attended_at = now
            elif now - self._attended_at > self._orphan_timeout_s:
                log.info("no HTTP process came for %g s; ending", self._orphan_timeout_s)
                self._stop = True
        if self._frontends.owner_gone:
            log.info("the owning process is gone; ending")
            self._stop = True

    def _handle(self, engine: Engine | None, frontend: FramedSocket, body: bytes) -> None:
        try:
            message = decode_to_runner(body)
        except UNDECODABLE as error:
            self._handle_undecodable(engine, frontend, report("an HTTP process", body, error))
            return
        match message:
            case Submit():
                self._news.add(frontend, message.held)
                self._submit(engine, frontend, message.with_prompts())
            case Abort(request_ids):
                self._abort(engine, request_ids)

    def _handle_undecodable(
        self, engine: Engine | None, frontend: FramedSocket, message: list[object]
    ) -> None:
        """Answer a message of which only plain values are known: its sequences fail now, or are aborted."""
        match message:
            case ["submit", [*requests]] if ids := submitted_ids(requests):
                self._frontends.send(frontend, encode(Outputs([*map(lost, ids)])))
            case ["abort", [*ids]]:
                self._abort(engine, [request_id for request_id in ids if isinstance(request_id, str)])
            case _:
                self._frontends.send(frontend, encode(NotDecoded()))

    def _abort(self, engine: Engine | None, request_ids: list[str]) -> None:
        for request_id in request_ids:
            if engine is None or request_id not in self._live:
                continue
            if self._fair is not None and self._fair.remove(request_id):
                del self._live[request_id]
            else:
                engine.abort(request_id)

    def _feed(self, engine: Engine, fair: FairQueue) -> None:
        """Give the engine what it can soon begin, in fair order."""
        if not fair.waiting:
            return
        now, stats = time.monotonic(), engine.stats()
        begun = []
        while (request := fair.next(stats, now)) is not None:
            begun.append(request)
        answers = [_submitted(engine, request) for request in fair.marked(begun)]
        self._send(engine, [output for output in answers if output is not None])

    def _submit(
        self, engine: Engine | None, frontend: FramedSocket, requests: list[GenerationRequest]
    ) -> None:
        if engine is None and isinstance(self._state, Ready):
            return  # the engine has failed: each frontend begins them again elsewhere when it hears of it
        refused, now = [], time.monotonic()
        for request in requests:
            output = None
            if engine is None:
                output = lost(request.request_id)
            elif request.key:
                if self._fair is None:
                    self._fair = FairQueue(engine.info)
                    if isinstance(engine, Interruptible):
                        engine.interrupt_with(partial(self._look, engine, self._fair))
                self._fair.put(request, now)
            else:
                output = _submitted(engine, request)
            if output is None:
                self._live[request.request_id] = frontend, now
            else:
                refused.append(output)
        if refused:
            self._frontends.send(frontend, encode(Outputs(refused)))

    def _send(self, engine: Engine, outputs: list[StepOutput]) -> None:
        by_frontend: dict[FramedSocket, list[StepOutput]] = {}
        for output in outputs:
            live = self._live.get(output.request_id)
            if live is None:
                continue
            by_frontend.setdefault(live[0], []).append(output)
            if output.finish_reason:
                del self._live[output.request_id]
                if self._fair is not None:
                    self._fair.ended(output.request_id)
        for frontend, mine in by_frontend.items():
            self._frontends.send(frontend, self._encoded(engine, mine))

    def _encoded(self, engine: Engine, outputs: list[StepOutput]) -> bytes:
        """The message. A sequence with a value that cannot be encoded is ended instead.

        What the engine still says of it is sent too: its frontend has forgotten it by then.
        """
        try:
            return encode(Outputs(outputs))
        except Exception:  # whatever value it is
            log.exception("outputs cannot be sent")
        body, replaced = encode_outputs(outputs)
        self._abort(engine, replaced)
        return body

    def _send_stats(self, engine: Engine, *, now: bool) -> None:
        clock = time.monotonic()
        if not now and clock < self._stats_due:
            return
        self._stats_due = clock + STATS_INTERVAL
        self._frontends.keep_listening()  # here, as it is not done for every step
        for frontend, held in self._news.take(self._frontends.attached):
            self._frontends.send(frontend, encode(Prefixes(held)))
        stats = engine.stats()
        waiting = self._fair.waiting if self._fair is not None else 0
        if waiting or total():
            stats = msgspec.structs.replace(
                stats, waiting=stats.waiting + waiting, undecodable_messages=total()
            )
        oldest_s = self._oldest(stats.waiting - stats.deferred, clock)
        if stats == self._sent and not oldest_s:
            return
        self._sent = msgspec.structs.replace(stats)
        self._frontends.send_all(encode(Stats(stats, oldest_s)))

    def _oldest(self, waiting: int, now: float) -> float:
        """Seconds that one of so many waiting sequences has waited, if they are those that came last."""
        if waiting <= 0 or not self._live:
            return 0.0
        first = min(waiting, len(self._live)) - 1
        _, came = next(islice(reversed(self._live.values()), first, None))
        return now - came


def _submitted(engine: Engine, request: GenerationRequest) -> StepOutput | None:
    """Submit a request. Returns its only output if the engine did not take it."""
    try:
        engine.submit(request)
    except InvalidRequest as error:
        return refusal(request.request_id, error)
    except Exception:  # whatever is wrong with one request must not end the others
        log.exception("request %s could not be submitted", request.request_id)
        return StepOutput(request.request_id, [], "error", error=FAILED_ON_REQUEST)
    return None
