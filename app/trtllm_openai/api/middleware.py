"""The layer around all routes, as plain ASGI: request id, path normalization, API key, body limit, log
record, metrics and trace.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trtllm_openai.api.auth import HEALTH_PATHS, METRICS_PATHS, Keys, open_paths
from trtllm_openai.api.context import ServerContext
from trtllm_openai.api.errors import (
    ANTHROPIC_PATH,
    CLIENT_CLOSED_REQUEST,
    ApiError,
    anthropic,
    from_exception,
    request_id,
    too_large,
    unavailable,
)
from trtllm_openai.api.headers import header
from trtllm_openai.api.ids import new_id
from trtllm_openai.runners import NOBODY, Tenant
from trtllm_openai.telemetry.record import RequestRecord
from trtllm_openai.telemetry.traces import CONTEXT_HEADERS, OPERATIONS

REQUEST_ID = b"x-request-id"
ANTHROPIC_REQUEST_ID = b"request-id"
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_QUIET = METRICS_PATHS | HEALTH_PATHS - {"/"} | {"/status", "/web/{name}"}
_SLASHES = re.compile(r"//+")


class RequestLayer:
    """Wraps the whole application. `keys` None: no API key is required.

    The body limit holds for declared lengths and for chunked bodies.
    """

    def __init__(self, app: ASGIApp, context: ServerContext, keys: Keys | None) -> None:
        self._app = app
        self._context = context
        self._keys = keys
        self._open_paths = open_paths(context.settings)
        self._max_body_bytes = context.settings.max_body_bytes
        self._metrics = context.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = path = clean_path(scope["path"])
        own_id = header(scope, REQUEST_ID)
        if own_id is None or not _SANE_ID.fullmatch(own_id):
            own_id = new_id()
        state = scope.setdefault("state", {})
        state["request_id"] = own_id
        request_id.set(own_id)
        id_headers = [(REQUEST_ID, own_id.encode())]
        anthropic.set(path.startswith(ANTHROPIC_PATH))
        if anthropic.get():
            id_headers.append((ANTHROPIC_REQUEST_ID, own_id.encode()))
        record = state["record"] = RequestRecord(own_id, scope["method"], path)
        status = 0
        gone = False

        def send_with_id(message: Message) -> Awaitable[None]:  # no coroutine of its own for each token
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *id_headers]
                if tenant := state.get("tenant"):
                    message["headers"] += self._context.admission.rate_headers(tenant)
            return send(message)

        received = 0

        async def receive_bounded() -> Message:
            nonlocal received, gone
            message = await receive()
            if message["type"] == "http.disconnect":
                gone = True
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise too_large(self._max_body_bytes)
            return message

        try:
            declared = header(scope, b"content-length") or ""
            refusal = self._refusal(scope)
            if declared.isdigit() and int(declared) > self._max_body_bytes:
                refusal = too_large(self._max_body_bytes)
            if refusal is not None:
                self._metrics.rejected.labels(refusal.code or "unavailable").inc()
                record.code = refusal.code or refusal.type
                await refusal.response()(scope, receive, send_with_id)
            else:
                await self._app(scope, receive_bounded, send_with_id)
        finally:
            # A disconnect before the end of the response is recorded as 499.
            complete = state.get("complete", status != 0)
            if gone and not complete:
                status = CLIENT_CLOSED_REQUEST
            record.status = status or 500
            record.seconds = time.perf_counter() - record.begun
            record.route = getattr(scope.get("route"), "path", "other")
            record.key = state.get("key", "")
            record.client = (scope.get("client") or ("",))[0]
            self._report(record, scope)

    def _report(self, record: RequestRecord, scope: Scope) -> None:
        """Count it, log it, trace it."""
        self._metrics.requests.labels(record.route, record.method, str(record.status)).inc()
        self._context.failures.add_request(record)
        if not record.detached:
            record.log(logging.DEBUG if record.route in _QUIET else logging.INFO)
        tracer = self._context.tracer
        if tracer is not None and record.route in OPERATIONS:
            headers = Headers(scope=scope)
            record.trace_context = {name: headers[name] for name in CONTEXT_HEADERS if name in headers}
            if not record.detached:
                tracer.record(record, record.model or self._context.model_id)

    def _refusal(self, scope: Scope) -> ApiError | None:
        """The error of a request that is rejected before its route is called."""
        path = scope["path"]
        if self._keys is not None and path not in self._open_paths and scope["method"] != "OPTIONS":
            try:
                name = scope["state"]["key"] = self._keys.check(Headers(scope=scope), path)
                scope["state"]["tenant"] = self._keys.tenant(name)
            except ApiError as error:
                return error
        if self._context.draining and scope["method"] == "POST":
            return unavailable("The server is shutting down.")
        if "tenant" in scope["state"] and scope["method"] == "POST" and path in OPERATIONS:
            return self._too_many(scope["state"]["tenant"])
        return None

    def _too_many(self, tenant: Tenant) -> ApiError | None:
        """Count a generating request for its key. Returns its refusal if it is one too many in a minute."""
        error = self._context.admission.arrive(tenant)
        if error is None:
            return None
        self._metrics.of_key(tenant.label).rejected.inc()
        return from_exception(error)


def api_key_name(request: Request) -> str:
    """The name of the request's API key; empty when the server needs none."""
    name: str = request.scope["state"].get("key", "")
    return name


def sender_of(request: Request) -> tuple[Tenant, RequestRecord]:
    """The tenant that sent the request, and the log record that this layer started."""
    state = request.scope["state"]
    return state.get("tenant", NOBODY), state["record"]


def clean_path(path: str) -> str:
    """`//v1//models/` as `/v1/models`: clients often join base URLs with a slash too many."""
    if "//" in path:
        path = _SLASHES.sub("/", path)
    return path.rstrip("/") or "/"
