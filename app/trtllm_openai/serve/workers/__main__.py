"""`python -m trtllm_openai.serve.workers FD`: an HTTP worker. FD: its end of the channel to its supervisor.

Exit status: 0 after a signal, 1 if the supervisor is gone or this process failed, 2 for invalid settings.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Coroutine
from typing import Any

import uvicorn

from trtllm_openai.api.context import ServerContext
from trtllm_openai.config import Settings
from trtllm_openai.errors import ConfigError
from trtllm_openai.serve.application import create_app
from trtllm_openai.serve.state import InferenceService
from trtllm_openai.serve.uvicorn import Server, http_config, print_safely, tune_interpreter
from trtllm_openai.serve.workers.acceptor import Acceptor
from trtllm_openai.serve.workers.channel import read_blocking
from trtllm_openai.serve.workers.messages import CANNOT_SERVE, REPORT_INTERVAL, Begin
from trtllm_openai.serve.workers.worker import Worker
from trtllm_openai.telemetry.logs import setup_logging
from trtllm_openai.telemetry.metrics import Metrics


class ReadinessReporter:
    """Tells the supervisor at once when this process begins or ceases to be ready."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._ready = False

    def update(self, context: ServerContext) -> None:
        """Readiness may have changed."""
        readiness = context.readiness
        self._worker.counters.set_ready(None if context.draining else readiness.ready)
        if readiness.failed or readiness.ready == self._ready:  # of a failure the supervisor knows
            return
        self._ready = readiness.ready
        if self._ready:
            tune_interpreter()
        self._worker.report(self._ready)


class WorkerServer(Server):
    """A server that accepts connections from a socket that all workers share, and sends heartbeats.

    It exits at once when its supervisor is gone, and the runners with it.
    """

    def __init__(
        self, config: uvicorn.Config, service: InferenceService, listener: socket.socket, worker: Worker
    ) -> None:
        super().__init__(config, service)
        self._listener = listener
        self._worker = worker
        self._acceptor: Acceptor | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._setting_up: set[Any] = set()  # protocols that may not be among `server_state.connections` yet

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        if self.should_exit:
            return
        self._acceptor = Acceptor(self._listener, self._worker.counters, self._connect, self._count)
        self._acceptor.start()
        self._tasks = [asyncio.create_task(self._heartbeat()), asyncio.create_task(self._follow_supervisor())]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._acceptor is not None:
            self._acceptor.stop()
        await super().shutdown(sockets=[])

    async def on_tick(self, counter: int) -> bool:
        self._worker.counters.connections = self._count()
        context = self._service.context
        self._worker.counters.set_ready(None if context.draining else context.readiness.ready)
        return await super().on_tick(counter)

    async def _heartbeat(self) -> None:
        while True:
            self._worker.report(self._service.context.readiness.ready)
            await asyncio.sleep(REPORT_INTERVAL)

    async def _follow_supervisor(self) -> None:
        await self._worker.supervisor_gone.wait()
        self._service.drain()
        self._service.interrupt()
        self.should_exit = True

    def _count(self) -> int:
        return len(self._setting_up | self.server_state.connections)

    def _connect(self, connection: socket.socket) -> Coroutine[Any, Any, None]:
        kind: Any = self.config.http_protocol_class
        protocol = kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        self._setting_up.add(protocol)
        return self._set_up(protocol, connection)

    async def _set_up(self, protocol: Any, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: protocol, connection, ssl=self.config.ssl)
        finally:
            self._setting_up.discard(protocol)


def main(channel: int) -> int:
    """Serve as one of several workers until SIGTERM."""
    end = socket.socket(fileno=channel)
    begin = read_blocking(end)
    assert isinstance(begin, Begin)
    settings = Settings.model_validate(begin.settings)
    setup_logging(settings.log_level, f"http-{begin.worker}", settings.log_format)
    metrics = Metrics()
    worker = Worker(begin, end, metrics.snapshot)
    worker.counters.set_ready(False)
    try:
        service = InferenceService(settings, ReadinessReporter(worker).update, worker, metrics)
        app = create_app(service)
    except ConfigError as error:
        print_safely(f"trtllm-openai: invalid configuration\n{error}", sys.stderr)
        return CANNOT_SERVE
    listener = socket.socket(fileno=begin.listener)
    server = WorkerServer(http_config(app, settings), service, listener, worker)
    server.run()
    return int(worker.supervisor_gone.is_set())


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
