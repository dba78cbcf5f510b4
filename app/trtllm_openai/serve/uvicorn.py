"""uvicorn around the application: one HTTP process, which drains before it shuts down."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import sys
import time
import types
from typing import TextIO

import uvicorn

from trtllm_openai.api.connection import BoundedProtocol, protocol
from trtllm_openai.config import Settings
from trtllm_openai.serve.application import Application
from trtllm_openai.serve.state import InferenceService

log = logging.getLogger("trtllm_openai.serve")

BACKLOG = 2048
"""Listen backlog."""
DRAIN_READ_TIMEOUT_S = 5.0
"""`client_read_timeout` while draining: a client that does not read delays it by no more."""
SHUTDOWN_TIMEOUT_S = 5
"""Seconds that interrupted responses get to send their last frames."""


def print_safely(text: str, stream: TextIO, end: str = "\n") -> None:
    """Print, ignoring errors: a full disk or a closed terminal must not stop the server."""
    with contextlib.suppress(OSError, ValueError):
        print(text, end=end, file=stream, flush=True)


def tell_stopping(requests: int | None, drain_timeout: float) -> None:
    """Say what the first signal begins: on the terminal, else in the log.

    `requests`: those that run; None if only the HTTP workers know.
    """
    text = "Stopping: no request is running."
    if requests != 0:
        running = "running requests" if requests is None else _requests(requests)
        text = f"Stopping: up to {drain_timeout:g} s for {running} to finish. Ctrl-C again ends now."
    if sys.stderr.isatty():
        print_safely(f"\r\x1b[2K{text}", sys.stderr)  # over the terminal's ^C
    else:
        log.info(text)


def _requests(number: int) -> str:
    return "1 request" if number == 1 else f"{number} requests"


class Server(uvicorn.Server):
    """uvicorn's server, which drains before its own shutdown, and exits when start-up fails.

    On the first signal it reports not ready and rejects new requests with 503, while running ones go on for
    at most `drain_timeout`; then they are interrupted. A second signal skips the rest of the wait.
    """

    def __init__(self, config: uvicorn.Config, service: InferenceService) -> None:
        super().__init__(config)
        self._service = service
        self._skip_drain = False
        self._shortened = False

    async def on_tick(self, counter: int) -> bool:
        context = self._service.context
        if context.draining and not self._shortened:
            self._shortened = True
            self._shorten_unread()
        if context.draining and not self.should_exit:
            expired = time.monotonic() - self._drain_began > context.settings.drain_timeout
            if expired or self._skip_drain:
                if context.runs:
                    log.warning("interrupting %s", _requests(len(context.runs)))
                self._service.interrupt()
                self.should_exit = True
            elif not context.runs:
                self.should_exit = True
        return await super().on_tick(counter)

    def _shorten_unread(self) -> None:
        kind = self.config.http_protocol_class
        if not issubclass(kind, BoundedProtocol):
            return
        kind.client_read_timeout = min(kind.client_read_timeout or math.inf, DRAIN_READ_TIMEOUT_S)
        for connection in self.server_state.connections:
            if isinstance(connection, BoundedProtocol):
                connection.shorten_unread()

    def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
        # uvicorn's own handler would raise the signal again after the shutdown; here the exit status is 0.
        # Not calling it also bypasses sse-starlette's patch of it, which cuts streams on SIGTERM.
        if self._service.context.draining:
            self._skip_drain = True
            return
        self._drain_began = time.monotonic()
        self._service.drain()  # first: the next signal may interrupt what follows, and must be the second
        context = self._service.context
        if not self._service.deployment.worker:  # else the supervisor says it, once
            tell_stopping(len(context.runs), context.settings.drain_timeout)


def http_config(app: Application, settings: Settings) -> uvicorn.Config:
    """uvicorn's settings."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol(settings.read_timeout, settings.limits.client_read_timeout, settings.cors_origins),
        access_log=False,
        log_config=None,
        lifespan="on",
        backlog=BACKLOG,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        timeout_keep_alive=75,
        server_header=False,
        proxy_headers=False,  # any client could write them: the log has the address of the peer
        ws="none",
    )


SWITCH_INTERVAL_S = 0.001
"""How long the event loop waits for a thread that holds the interpreter; Python's default is 5 ms."""


def tune_interpreter() -> None:
    """Have the event loop rest less, for threads and for garbage collection.

    What start-up allocated is excluded from collection, and the rest is collected less often.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
