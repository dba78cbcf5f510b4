"""`python -m trtllm_openai.serve.workers FD`: an HTTP worker. FD: its end of the channel to its supervisor.

Exit status: 0 after a signal, 1 if the supervisor is gone or this process failed, 2 for invalid settings.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import sys
from typing import Any

import uvicorn

from trtllm_openai.api.context import ServerContext
from trtllm_openai.config import Settings
from trtllm_openai.errors import ConfigError
from trtllm_openai.serve.application import create_app
from trtllm_openai.serve.state import InferenceService
from trtllm_openai.serve.uvicorn import Server, http_config, print_safely, tune_gc
from trtllm_openai.serve.workers.acceptor import Acceptor
from trtllm_openai.serve.workers.channel import read_blocking
from trtllm_openai.serve.workers.messages import CANNOT_SERVE, Begin
from trtllm_openai.serve.workers.worker import Worker
from trtllm_openai.telemetry.logs import setup_logging


class WorkerServer(Server):
    """A server that accepts connections from a socket that all workers share."""

    def __init__(
        self, config: uvicorn.Config, service: InferenceService, listener: socket.socket, worker: Worker
    ) -> None:
        super().__init__(config, service)
        self._listener = listener
        self._worker = worker
        self._acceptor: Acceptor | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        if self.should_exit:
            return
        self._acceptor = Acceptor(
            self._listener, self._worker.counters, self._connect, lambda: len(self.server_state.connections)
        )
        self._acceptor.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._acceptor is not None:
            self._acceptor.stop()
        await super().shutdown(sockets=[])

    async def on_tick(self, counter: int) -> bool:
        self._worker.counters.connections = len(self.server_state.connections)
        return await super().on_tick(counter)

    def give_up(self) -> None:
        """Exit at once: the supervisor is gone, and the runners with it."""
        self._service.drain()
        self._service.interrupt()
        self.should_exit = True

    async def _connect(self, connection: socket.socket) -> None:
        protocol: Any = self.config.http_protocol_class
        make = functools.partial(
            protocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(make, connection, ssl=self.config.ssl)


def main(channel: int) -> int:
    """Serve as one of several workers until SIGTERM."""
    end = socket.socket(fileno=channel)
    begin = read_blocking(end)
    assert isinstance(begin, Begin)
    settings = Settings.model_validate(begin.settings)
    setup_logging(settings.log_level, f"http-{begin.worker}", settings.log_format)
    gone = ready = False

    def on_gone() -> None:
        nonlocal gone
        gone = True
        server.give_up()

    def on_change(context: ServerContext) -> None:
        nonlocal ready
        readiness = context.readiness
        if readiness.failed:  # the supervisor knows
            return
        if readiness.ready and not ready:
            tune_gc()
        if readiness.ready != ready:
            ready = readiness.ready
            worker.report_now()

    worker = Worker(begin, end, on_gone)
    try:
        service = InferenceService(settings, on_change, worker)
        app = create_app(service)
    except ConfigError as error:
        print_safely(f"trtllm-openai: invalid configuration\n{error}", sys.stderr)
        return CANNOT_SERVE
    context = service.context
    worker.watch(context.metrics.snapshot, lambda: context.readiness.ready)
    listener = socket.socket(fileno=begin.listener)
    server = WorkerServer(http_config(app, settings), service, listener, worker)
    server.run()
    return int(gone)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
