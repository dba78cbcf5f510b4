"""The `serve` command: bind the port, show progress, and serve from this process or from several workers."""

from __future__ import annotations

import asyncio
import json
import resource
import shlex
import socket
import ssl
import sys

from trtllm_openai.api.auth import keys_of
from trtllm_openai.api.context import Readiness, ServerContext
from trtllm_openai.config import Settings
from trtllm_openai.engines.kv_events import check_kv_events
from trtllm_openai.errors import ConfigError
from trtllm_openai.serve.application import create_app
from trtllm_openai.serve.state import InferenceService
from trtllm_openai.serve.uvicorn import BACKLOG, Server, http_config, print_safely, tune_gc
from trtllm_openai.serve.workers.supervisor import Supervisor
from trtllm_openai.telemetry.logs import setup_logging

QUESTION = "What is the capital of South Korea?"


class ProgressDisplay:
    """Start-up progress on standard error: a progress bar on a terminal, elsewhere a line every 10 %."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._shown = ""
        self._tenth = -1

    def update(self, readiness: Readiness) -> None:
        """Show the current state if it has changed."""
        state = readiness.reason or "ready"
        if self._tty:
            width = 24
            filled = round(readiness.progress * width)
            line = f"[{'#' * filled}{'.' * (width - filled)}] {readiness.progress:4.0%}  {state}"
            if line != self._shown:
                print_safely(f"\r\x1b[2K{line[:110]}", sys.stderr, end="")
                self._shown = line
            return
        tenth = int(readiness.progress * 10)
        if tenth > self._tenth:
            self._tenth = tenth
            print_safely(f"loading {readiness.progress:4.0%}  {state}", sys.stderr)

    def end(self) -> None:
        """End the line of the progress bar."""
        if self._tty and self._shown:
            print_safely("", sys.stderr)
            self._shown = ""


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status. Raises `ConfigError` before anything starts."""
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
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))  # a connection is a file descriptor
    display = ProgressDisplay()
    workers = settings.http_workers
    failure = (
        serve_alone(settings, listener, display) if workers == 1 else supervise(settings, listener, display)
    )
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

    def __init__(self, display: ProgressDisplay, listener: socket.socket) -> None:
        self._display = display
        self._listener = listener
        self._announced = False

    def update(self, context: ServerContext) -> None:
        """Readiness may have changed."""
        readiness = context.readiness
        if self._announced or readiness.failed:
            return
        self._display.update(readiness)
        if readiness.ready:
            self._announced = True
            self._display.end()
            announce(self._listener, context.settings, context.model_id)
            tune_gc()


def serve_alone(settings: Settings, listener: socket.socket, display: ProgressDisplay) -> str:
    """Serve from this process. Returns the reason of a failure; empty after a signal."""
    service = InferenceService(settings, StartupReporter(display, listener).update)
    server = StandaloneServer(http_config(create_app(service), settings), service)
    server.run(sockets=[listener])
    return server.failure


def supervise(settings: Settings, listener: socket.socket, display: ProgressDisplay) -> str:
    """Serve from several HTTP workers. Returns the reason of a failure; empty after a signal."""
    listener.setblocking(False)
    listener.listen(BACKLOG)

    def on_ready(model_id: str) -> None:
        display.update(Readiness(True, "ready", 1.0))
        display.end()
        announce(listener, settings, model_id)

    def on_progress(fraction: float, part: str) -> None:
        display.update(Readiness(False, part, fraction))

    supervisor = Supervisor(settings, settings.http_workers, listener, on_progress, on_ready)
    asyncio.run(supervisor.run())
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


def announce(listener: socket.socket, settings: Settings, model_id: str) -> None:
    """Print the server's URL and a command to try it."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    scheme = "https" if settings.tls_certificate else "http"
    url = f"{scheme}://{shown}:{port}"
    message = {"role": "user", "content": QUESTION}
    body = json.dumps({"model": model_id, "messages": [message]})
    print_safely(
        f"\n{model_id} is ready on {url}\n\nTry it:\n"
        f"  curl {url}/v1/chat/completions -H 'content-type: application/json' -d {shlex.quote(body)}\n",
        sys.stdout,
    )
