"""uvicorn around the application: one HTTP process, with an orderly end."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
import types
from typing import TextIO

import uvicorn

from trtllm_openai.api.connection import protocol
from trtllm_openai.config import Settings
from trtllm_openai.serve.application import Application
from trtllm_openai.serve.state import InferenceService

log = logging.getLogger("trtllm_openai.serve")

BACKLOG = 2048
"""Connections that may wait to be accepted."""
SHUTDOWN_TIMEOUT_S = 5
"""Seconds that responses get to end once they were interrupted."""


def say(text: str, stream: TextIO, end: str = "\n") -> None:
    """Print; a full disk or a closed terminal behind the stream is no reason not to serve."""
    with contextlib.suppress(OSError, ValueError):
        print(text, end=end, file=stream, flush=True)


class Server(uvicorn.Server):
    """uvicorn's server, with a drain before its own shutdown.

    The first signal: not ready, and new requests get 503, while what is being answered goes on for at most
    `drain_timeout`; then it is interrupted. A second signal skips the rest of the wait.
    """

    def __init__(self, config: uvicorn.Config, service: InferenceService) -> None:
        super().__init__(config)
        self._service = service
        self._hurry = False

    async def on_tick(self, counter: int) -> bool:
        if self._service.draining and not self.should_exit:
            over = time.monotonic() - self._drain_began > self._service.settings.drain_timeout
            if over or self._hurry:
                if self._service.jobs:
                    log.warning("%d requests are cut short", len(self._service.jobs))
                self._service.interrupt()
                self.should_exit = True
            elif not self._service.jobs:
                self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
        # uvicorn's own handler would raise the signal again after the shutdown; ours ends with status 0.
        if self._service.draining:
            self._hurry = True
            return
        self._drain_began = time.monotonic()
        self._service.drain()


def http_config(app: Application, settings: Settings) -> uvicorn.Config:
    """uvicorn's settings."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol(settings.read_timeout),
        access_log=False,
        log_config=None,
        lifespan="on",
        backlog=BACKLOG,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        timeout_keep_alive=75,
        server_header=False,
        proxy_headers=False,  # nothing asks for the client's address
        ws="none",
    )


def tune_gc() -> None:
    """Have garbage collection look at what requests leave, seldom, and never again at what start-up made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
