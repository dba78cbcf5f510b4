"""Serving: bind the port, show progress, and serve from this process or from several workers.

`serve.start` comes before: it imports this module, and with it the HTTP side.
"""

from __future__ import annotations

import socket
import ssl
import sys

from trtllm_openai.api.auth import keys_of
from trtllm_openai.api.context import ServerContext
from trtllm_openai.chat import ChatFormat
from trtllm_openai.config import Settings
from trtllm_openai.engine_host.prestart import PrestartedHosts
from trtllm_openai.engines.kv_events import check_kv_events
from trtllm_openai.errors import ConfigError
from trtllm_openai.serve.application import create_app
from trtllm_openai.serve.deployment import SingleProcess
from trtllm_openai.serve.display import StartupDisplay
from trtllm_openai.serve.model import ServedModel
from trtllm_openai.serve.pools import OwnedPool
from trtllm_openai.serve.state import InferenceService
from trtllm_openai.serve.summary import announce, rows, url_of
from trtllm_openai.serve.uvicorn import BACKLOG, Server, http_config, print_safely, tune_interpreter
from trtllm_openai.serve.workers.supervisor import Supervisor
from trtllm_openai.telemetry.logs import setup_logging


async def serve(settings: Settings, hosts: PrestartedHosts) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status. Raises `ConfigError` before the port is bound.

    `hosts`: for the first launches of runners.
    """
    check_files(settings)
    setup_logging(settings.log_level, "http", settings.log_format)
    try:
        listener = bind(settings.host, settings.port)
    except OSError as error:
        print_safely(
            f"trtllm-openai: cannot listen on {settings.host}:{settings.port}: {error.strerror}. "
            "Choose another with --port.",
            sys.stderr,
        )
        return 1
    display = StartupDisplay()
    run = serve_alone if settings.http_workers == 1 else supervise
    failure = await run(settings, listener, display, hosts)
    display.end()
    if failure:
        print_safely(f"trtllm-openai: cannot serve: {failure}", sys.stderr)
        return 1
    return 0


def check_files(settings: Settings) -> None:
    """Check what every process will need: the key and certificate files, and the package of KV events.

    Raises `ConfigError` naming the setting.
    """
    keys_of(settings)
    check_kv_events(settings)
    if settings.tls_key and not settings.tls_certificate:
        raise ConfigError("tls_key: it requires tls_certificate")
    if settings.tls_certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=lambda: "")
        except OSError as error:  # includes ssl.SSLError
            raise ConfigError(f"tls_certificate, tls_key: cannot be loaded: {error}") from None


class StandaloneServer(Server):
    """The server of a single HTTP process. It exits when start-up fails: no runner could ever be started.

    Once one was ready it exits on a signal only; runners that were given up are tried again.
    """

    failure = ""
    """Reason of the exit; empty after a signal."""

    async def on_tick(self, counter: int) -> bool:
        context = self._service.context
        readiness = context.readiness
        if readiness.failed and context.engine_info is None and not self.failure:
            self.failure = readiness.reason
            self.should_exit = True
        return await super().on_tick(counter)


class StartupReporter:
    """Shows the progress of start-up, and announces the server once it is ready."""

    def __init__(self, display: StartupDisplay, listener: socket.socket) -> None:
        self._display = display
        self._listener = listener
        self._announced = False

    def update(self, context: ServerContext) -> None:
        """Readiness may have changed."""
        readiness = context.readiness
        if self._announced or readiness.failed:
            return
        states = context.pool.states() if context.pool is not None else ()
        self._display.update(readiness.progress, readiness.reason, states)
        if readiness.ready and context.engine_info is not None and context.chat is not None:
            self._announced = True
            self._display.end()
            settings = context.settings
            facts = rows(settings, context.model_id, context.engine_info, context.chat)
            announce(url_of(self._listener, settings), context.model_id, facts, settings)
            tune_interpreter()


async def serve_alone(
    settings: Settings, listener: socket.socket, display: StartupDisplay, hosts: PrestartedHosts
) -> str:
    """Serve from this process. Returns the reason of a failure; empty after a signal."""
    service = InferenceService(settings, StartupReporter(display, listener).update, SingleProcess(hosts))
    server = StandaloneServer(http_config(create_app(service), settings), service)
    await server.serve(sockets=[listener])
    return server.failure


async def supervise(
    settings: Settings, listener: socket.socket, display: StartupDisplay, hosts: PrestartedHosts
) -> str:
    """Serve from several HTTP workers. Returns the reason of a failure; empty after a signal."""
    listener.setblocking(False)
    listener.listen(BACKLOG)

    def on_ready(model: ServedModel[OwnedPool]) -> None:
        display.end()
        assert model.pool.info is not None
        chat = ChatFormat(model.tokenizer, settings.tool_parser, settings.reasoning_parser)
        model_id = settings.model_name or model.name
        facts = rows(settings, model_id, model.pool.info, chat)
        announce(url_of(listener, settings), model_id, facts, settings)

    supervisor = Supervisor(settings, settings.http_workers, listener, display.update, on_ready, hosts)
    await supervisor.run()
    return supervisor.failure


def bind(host: str, port: int) -> socket.socket:
    """A bound TCP socket; `port` 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
