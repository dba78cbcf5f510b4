"""Every exception this server raises on purpose, except the HTTP layer's `api.errors.ApiError`.

ServerError
├── ConfigError          a setting is wrong; exit status 2
├── CheckpointError      the model cannot be used; exit status 1
├── RequestError         one request ends with an error, the server goes on
│   ├── InvalidRequest       400
│   ├── Overloaded           429
│   ├── PoolError            503, no runner is ready
│   ├── ShuttingDown         503, the server is draining
│   └── ClientDisconnected   nobody reads the response
├── Unanswered           another process of this server did not reply
└── BadResponse          `bench`: a server under test sent something that is not OpenAI's API
"""

from __future__ import annotations


class ServerError(Exception):
    """Base of all of them."""


class ConfigError(ServerError):
    """A setting is wrong; the message names it."""


class CheckpointError(ServerError):
    """The model cannot be used; the message is one sentence for the person who starts the server."""


class RequestError(ServerError):
    """One request ends with an error; the server goes on."""


class InvalidRequest(RequestError, ValueError):
    """The request cannot be served by this engine; `param` names the offending field."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class Overloaded(RequestError):
    """Too much is waiting. `code` says which bound was met."""

    def __init__(self, message: str, code: str, retry_after_ms: int) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_ms = retry_after_ms


class PoolError(RequestError):
    """No runner can take the request now. `loading`: it will be possible later."""

    def __init__(self, message: str, *, loading: bool) -> None:
        super().__init__(message)
        self.loading = loading


class ShuttingDown(RequestError):
    """The server ends before the request does."""


class ClientDisconnected(RequestError):
    """The client closed the connection before it had its answer."""


class Unanswered(ServerError):
    """The other side did not answer: it is gone, is too slow, or failed."""


class BadResponse(ServerError):
    """The bytes are not an HTTP/1.1 answer."""
