"""The error contract. Every error, inside and outside streams, has the shape

{"error": {"message": …, "type": …, "param": …, "code": …, "request_id": …}}

and on Anthropic's routes (`anthropic`)

{"type": "error", "error": {"type": …, "message": …}, "request_id": …}
"""

from __future__ import annotations

import http
import logging
import re
from collections.abc import Mapping
from contextvars import ContextVar

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from trtllm_openai.errors import ClientDisconnected, InvalidRequest, Overloaded, PoolError, ShuttingDown
from trtllm_openai.generation.parameters import BY_NAME

log = logging.getLogger(__name__)

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the current request."""

anthropic: ContextVar[bool] = ContextVar("anthropic", default=False)
"""Whether errors of the current request have Anthropic's shape."""
ANTHROPIC_PATH = "/v1/messages"
"""Beginning of the paths whose errors have it."""

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_ANTHROPIC_STATUSES = {503: 529}
"""Anthropic's status for a server that cannot answer for now; its SDKs have an error of their own for it."""

_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    415: "unsupported_media_type",
}
LOADING_RETRY_AFTER = 5
CLIENT_CLOSED_REQUEST = 499
"""nginx's status code for a client disconnect."""


class ApiError(Exception):
    """An error response: HTTP status, message, the invalid parameter and a machine-readable code."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def type(self) -> str:
        """OpenAI's error type for the status."""
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def body(self) -> bytes:
        """The error as JSON."""
        if anthropic.get():
            return msgspec.json.encode(self._anthropic())
        return msgspec.json.encode({"error": self.detail()})

    def _anthropic(self) -> dict[str, object]:
        default = "api_error" if self.status >= 500 else "invalid_request_error"
        detail = {"type": _ANTHROPIC_TYPES.get(self.status, default), "message": self.message}
        return {"type": "error", "error": detail, "request_id": request_id.get()}

    def detail(self) -> dict[str, str | None]:
        """The value of `error` in the JSON body."""
        return {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
            "request_id": request_id.get(),
        }

    def response(self) -> Response:
        """The error as an HTTP response."""
        status = _ANTHROPIC_STATUSES.get(self.status, self.status) if anthropic.get() else self.status
        return Response(self.body(), status, self.headers, media_type="application/json")


def unavailable(message: str) -> ApiError:
    """A 503 with `retry-after`."""
    headers = {"retry-after": str(LOADING_RETRY_AFTER), "retry-after-ms": str(LOADING_RETRY_AFTER * 1000)}
    return ApiError(503, message, code="service_unavailable", headers=headers)


def too_large(limit: int) -> ApiError:
    """A 413 for a body of more than `limit` bytes, which is not read to its end: the connection closes."""
    return ApiError(
        413,
        f"The request body is larger than max_body_bytes, which is {limit}.",
        code="payload_too_large",
        headers={"connection": "close"},
    )


def _overloaded(error: Overloaded) -> ApiError:
    seconds = -(-error.retry_after_ms // 1000)
    headers = {"retry-after": str(seconds), "retry-after-ms": str(error.retry_after_ms)}
    return ApiError(429, f"{error} Try again later.", code=error.code, headers=headers)


def from_exception(error: Exception) -> ApiError:
    """Map any exception of the request path to an ApiError; unexpected ones are logged and become 500."""
    match error:
        case ApiError():
            return error
        case InvalidRequest():
            return ApiError(400, str(error), param=error.param, code=error.code)
        case Overloaded():
            return _overloaded(error)
        case ShuttingDown():
            return unavailable("The server is shutting down.")
        case PoolError():
            return unavailable(f"The model is not ready: {error}")
        case ValidationError():
            return from_validation(error)
    log.error("unexpected error", exc_info=error)
    return ApiError(500, "Internal server error. The server's log has the details.", code="internal_error")


def from_validation(error: ValidationError) -> ApiError:
    """A 400 for the first error of a body's validation, with the JSON path as `param`."""
    items = error.errors(include_url=False, include_context=False)
    # A union reports an error for every member; the one with the deepest path is the most likely intent.
    item = max(items, key=_how_far) if any(map(_is_tag, items[0]["loc"])) else items[0]
    param = json_path(_without_union_tags(item["loc"]))
    message = _range(param, item["input"]) or item["msg"]
    if item["type"] == "missing":
        return ApiError(
            400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
        )
    code = "invalid_type" if item["type"].endswith("_type") else "invalid_value"
    return ApiError(400, f"Invalid value for '{param}': {message}.", param=param, code=code)


def _range(param: str, value: object) -> str:
    """The range of a sampling parameter, if `value`, its own or an element's, is outside; or empty."""
    row = BY_NAME.get(_ROOT.split(param, maxsplit=1)[0])
    if row is None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    return f"{row.bounds}, not {value}" if row.fault(value) is not None else ""


_ROOT = re.compile(r"[.\[]")


def json_path(loc: tuple[int | str, ...]) -> str:
    """Format a pydantic location: `("messages", 0, "content")` becomes `messages[0].content`."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _how_far(item: ErrorDetails) -> tuple[int, int]:
    loc = item["loc"]
    return len(loc), next((part for part in reversed(loc) if isinstance(part, int)), -1)


def _is_tag(part: int | str) -> bool:
    """Whether pydantic added `part` to name a union member or a dict key: `list[str]`, `[key]`, `str`."""
    return isinstance(part, str) and (part.endswith("]") or part in {"str", "int", "float", "bool"})


def _without_union_tags(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return tuple(part for part in loc if not _is_tag(part))


def answer_to(error: Exception, scope: Scope) -> Response:
    """The HTTP response for any exception of the request path; the request's record gets its code."""
    if isinstance(error, (ClientDisconnected, ClientDisconnect)):
        return Response(status_code=CLIENT_CLOSED_REQUEST)  # for the log and the metrics; the client is gone
    fault = from_exception(error)
    if (record := scope.get("state", {}).get("record")) is not None:
        record.code = fault.code or fault.type
    return fault.response()


def install(app: FastAPI) -> None:
    """Register handlers so that every error of `app` follows the contract."""
    # Coroutines, because Starlette runs plain functions in a thread pool.

    async def answer(request: Request, error: Exception) -> Response:
        return answer_to(error, request.scope)

    async def framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status = error.status_code
        messages = {
            404: f"No route {request.url.path}.",
            405: f"{request.url.path} does not support {request.method}.",
        }
        message = messages.get(status) or str(error.detail) or http.HTTPStatus(status).phrase
        return ApiError(status, message, code=_CODES.get(status), headers=error.headers).response()

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        item = error.errors()[0]
        param = json_path(tuple(item["loc"][1:]))
        return ApiError(400, f"Invalid value for '{param}': {item['msg']}.", param=param).response()

    for kind in (
        ApiError,
        ClientDisconnect,
        ClientDisconnected,
        InvalidRequest,
        Overloaded,
        PoolError,
        ShuttingDown,
        ValidationError,
    ):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, answer)
