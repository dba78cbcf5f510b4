"""`serve`: the port, progress on the terminal, and HTTP from this process or from several workers."""

from __future__ import annotations

import asyncio
import json
import resource
import shlex
import socket
import ssl
import sys
from pathlib import Path

from trtllm_openai.api.auth import Keys
from trtllm_openai.config import Settings
from trtllm_openai.errors import ConfigError
from trtllm_openai.serve.application import create_app
from trtllm_openai.serve.state import InferenceService, Readiness
from trtllm_openai.serve.uvicorn import BACKLOG, Server, http_config, say, tune_gc
from trtllm_openai.serve.workers.supervisor import Supervisor
from trtllm_openai.telemetry.logs import setup_logging

QUESTION = "What is the capital of South Korea?"


class Console:
    """Shows start-up on standard error: a bar that moves on a terminal, a line per tenth elsewhere."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._shown = ""
        self._tenth = -1

    def update(self, readiness: Readiness) -> None:
        """Draw the present state, if it says something new."""
        what = readiness.reason or "ready"
        if self._tty:
            width = 24
            filled = round(readiness.progress * width)
            line = f"[{'#' * filled}{'.' * (width - filled)}] {readiness.progress:4.0%}  {what}"
            if line != self._shown:
                say(f"\r\x1b[2K{line[:110]}", sys.stderr, end="")
                self._shown = line
            return
        tenth = int(readiness.progress * 10)
        if tenth > self._tenth:
            self._tenth = tenth
            say(f"loading {readiness.progress:4.0%}  {what}", sys.stderr)

    def end(self) -> None:
        """Leave the line that was being drawn."""
        if self._tty and self._shown:
            say("", sys.stderr)
            self._shown = ""


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status. Raises `ConfigError` at first."""
    check_files(settings)
    setup_logging(settings.log_level, "http", settings.log_format)
    try:
        listener = bind(settings.host, settings.port)
    except OSError as error:
        say(
            f"trtllm-openai: cannot listen on {settings.host}:{settings.port}: {error.strerror}. "
            "Choose another with --port.",
            sys.stderr,
        )
        return 1
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection is a file descriptor
    console = Console()
    workers = settings.http_workers
    failure = (
        serve_alone(settings, listener, console) if workers == 1 else supervise(settings, listener, console)
    )
    console.end()
    if failure:
        say(f"trtllm-openai: cannot serve: {failure}", sys.stderr)
        return 1
    return 0


def check_files(settings: Settings) -> None:
    """Read the files that every HTTP process will read. Raises `ConfigError` naming the setting."""
    if settings.api_keys_file:
        Keys(Path(settings.api_keys_file).expanduser())
    if settings.tls_key and not settings.tls_certificate:
        raise ConfigError("tls_key: it needs tls_certificate")
    if settings.tls_certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=lambda: "")
        except OSError as error:  # ssl's own errors too
            raise ConfigError(f"tls_certificate, tls_key: they cannot be used: {error}") from None


def serve_alone(settings: Settings, listener: socket.socket, console: Console) -> str:
    """Serve from this process. Returns why it cannot go on; empty if it was told to end."""
    announced = False
    failure = ""

    def on_change(readiness: Readiness) -> None:
        nonlocal announced, failure
        if readiness.failed:
            failure = readiness.reason
            server.should_exit = True
        elif readiness.ready and not announced:
            announced = True
            console.update(Readiness(True, "ready", 1.0))
            console.end()
            announce(listener, settings, service.model_id)
            tune_gc()
        elif not announced:
            console.update(readiness)

    app = create_app(settings, on_change)
    service: InferenceService = app.state.service
    server = Server(http_config(app, settings), service)
    server.run(sockets=[listener])
    return failure


def supervise(settings: Settings, listener: socket.socket, console: Console) -> str:
    """Have HTTP workers serve. Returns why that cannot go on; empty if it was told to end."""
    listener.setblocking(False)
    listener.listen(BACKLOG)

    def on_ready(model_id: str) -> None:
        console.update(Readiness(True, "ready", 1.0))
        console.end()
        announce(listener, settings, model_id)

    def on_progress(fraction: float, what: str) -> None:
        console.update(Readiness(False, what, fraction))

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
    """Say where the server is and how to try it."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    scheme = "https" if settings.tls_certificate else "http"
    url = f"{scheme}://{shown}:{port}"
    message = {"role": "user", "content": QUESTION}
    body = json.dumps({"model": model_id, "messages": [message]})
    say(
        f"\n{model_id} is ready on {url}\n\nTry it:\n"
        f"  curl {url}/v1/chat/completions -H 'content-type: application/json' -d {shlex.quote(body)}\n",
        sys.stdout,
    )
