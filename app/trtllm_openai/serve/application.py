"""The ASGI application: routes, error contract, request layer, and the lifespan that owns the pool."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from trtllm_openai import __version__
from trtllm_openai.api import admin, chat, completions, errors, health, models, openapi, tokens
from trtllm_openai.api.auth import Keys
from trtllm_openai.api.fast_routes import DirectRoute, DirectRoutes
from trtllm_openai.api.middleware import RequestLayer
from trtllm_openai.api.responses import routes as responses
from trtllm_openai.api.responses.store import ResponseStore
from trtllm_openai.config import Settings
from trtllm_openai.serve.deployment import Deployment
from trtllm_openai.serve.state import InferenceService, Readiness

DIRECT = (
    DirectRoute("/v1/chat/completions", chat.create_chat_completion),
    DirectRoute("/v1/completions", completions.create_completion),
    DirectRoute("/v1/responses", responses.create_response),
)


class Application(FastAPI):
    """FastAPI within our own layers: what generates never enters its."""

    def wrap(self, service: InferenceService) -> None:
        """Put the layers around it."""
        settings = service.settings
        app: ASGIApp = DirectRoutes(super().__call__, DIRECT)
        if settings.cors_origins:
            app = CORSMiddleware(
                app,
                allow_origins=settings.cors_origins,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=["x-request-id", "x-ignored-params", "retry-after", "retry-after-ms"],
            )
        keys = Keys(Path(settings.api_keys_file).expanduser()) if settings.api_keys_file else None
        self._wrapped = RequestLayer(app, service, keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self._wrapped(scope, receive, send)


def create_app(
    settings: Settings,
    on_change: Callable[[Readiness], None] = lambda _: None,
    deployment: Deployment | None = None,
) -> Application:
    """Build the application. `on_change` is called as start-up proceeds; `deployment` None: alone."""

    service = InferenceService(settings, on_change, deployment)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            app.state.responses.close()
            await service.stop()

    app = Application(
        title="trtllm-openai-server",
        version=__version__,
        description="OpenAI-compatible inference over TensorRT-LLM engines.",
        lifespan=lifespan,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    app.state.responses = ResponseStore(settings.max_stored_responses, service.deployment)
    for module in (completions, chat, responses, tokens, models, health, admin):
        app.include_router(module.router)
    errors.install(app)
    openapi.install(app)
    app.wrap(service)
    return app
