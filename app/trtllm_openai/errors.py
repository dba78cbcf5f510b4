"""The exception tree of the server. Only the HTTP layer's `api.errors.ApiError` is defined elsewhere.

ServerError
├── ConfigError          a setting is wrong; exit status 2
├── CheckpointError      the model cannot be used; exit status 1
├── RequestError         one request fails, the server goes on
│   ├── InvalidRequest       400
│   ├── Overloaded           429
│   ├── PoolError            503, no runner is ready
│   ├── ShuttingDown         503, the server is draining
│   └── ClientDisconnected   nobody reads the response
├── Unanswered           another process of this server did not reply
└── BadResponse          `bench`: the server under test sent no valid HTTP/1.1 response, or an error status
"""

from __future__ import annotations


class ServerError(Exception):
    """Base class."""


class ConfigError(ServerError):
    """A setting or flag is wrong. The message names it. Exit status 2."""


class CheckpointError(ServerError):
    """The model cannot be used. The message is one sentence for the operator. Exit status 1."""


class RequestError(ServerError):
    """Base class of errors that fail one request; the server goes on."""


class InvalidRequest(RequestError, ValueError):
    """The request is invalid, or the engine cannot serve it. `param` names the offending field."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class Overloaded(RequestError):
    """A queue limit was reached; `code` names the limit. `retry_after_ms` goes to the client."""

    def __init__(self, message: str, code: str, retry_after_ms: int) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_ms = retry_after_ms


class PoolError(RequestError):
    """No runner is ready. `loading`: one will be, once its engine has loaded."""

    def __init__(self, message: str, *, loading: bool) -> None:
        super().__init__(message)
        self.loading = loading


class ShuttingDown(RequestError):
    """The server is shutting down."""


class ClientDisconnected(RequestError):
    """The client closed the connection before the response was complete."""


class Unanswered(ServerError):
    """Another process of this server did not reply: it exited, timed out or failed."""


class BadResponse(ServerError):
    """The bytes are not a valid HTTP/1.1 response, or its status is not 200 where it has to be."""
