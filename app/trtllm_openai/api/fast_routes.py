"""Fast path for the generating routes: they are called directly, bypassing FastAPI's and Starlette's layers.

FastAPI's routing costs some 400 Python calls per request, as many as the rest of the server. These routes
parse their own bodies and have no dependencies, so FastAPI only contributes their OpenAPI documentation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from trtllm_openai.api.errors import answer_to

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class DirectRoute:
    """A POST route for the exact path `path`."""

    path: str
    endpoint: Endpoint


class DirectRoutes:
    """ASGI application that dispatches to `routes` and passes every other request to `app`."""

    def __init__(self, app: ASGIApp, routes: Iterable[DirectRoute]) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope.get("method")
        route = self._routes.get(scope["path"]) if method == "POST" else None
        if route is None:
            if method == "HEAD":
                await self._head(scope, receive, send)
            else:
                await self._app(scope, receive, send)
            return
        scope["route"] = route
        try:
            response = await route.endpoint(Request(scope, receive))
        except Exception as error:
            response = answer_to(error, scope)
        await response(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer HEAD as GET, for which alone FastAPI's routes are declared; uvicorn leaves out the body."""
        get = {**scope, "method": "GET"}
        try:
            await self._app(get, receive, send)
        finally:
            scope["route"] = get.get("route")
