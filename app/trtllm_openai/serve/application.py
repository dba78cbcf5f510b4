"""The ASGI application: routes, error contract, request layer, and the lifespan that starts the service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from trtllm_openai import __version__
from trtllm_openai.api import (
    admin,
    chat,
    completions,
    errors,
    health,
    models,
    openapi,
    reference,
    status,
    tokens,
    web,
)
from trtllm_openai.api.auth import keys_of
from trtllm_openai.api.context import ServerContext
from trtllm_openai.api.fast_routes import DirectRoute, DirectRoutes
from trtllm_openai.api.generation_probe import GenerationProbe
from trtllm_openai.api.messages import routes as messages
from trtllm_openai.api.middleware import RequestLayer
from trtllm_openai.api.responses import compact
from trtllm_openai.api.responses import routes as responses
from trtllm_openai.api.responses.store import ResponseStore
from trtllm_openai.serve.state import InferenceService

DIRECT = (
    DirectRoute("/v1/chat/completions", chat.create_chat_completion),
    DirectRoute("/v1/completions", completions.create_completion),
    DirectRoute("/v1/responses", responses.create_response),
    DirectRoute("/v1/messages", messages.create_message),
)


EXPOSED_HEADERS = [
    "x-request-id",
    "request-id",
    "x-ignored-params",
    "retry-after",
    "retry-after-ms",
    *(
        f"x-ratelimit-{what}-{counted}"
        for counted in ("requests", "tokens")
        for what in ("limit", "remaining", "reset")
    ),
]
"""Headers that a page of another origin may read."""


class Application(FastAPI):
    """FastAPI inside the request layer; the generating routes bypass FastAPI's own layers."""

    def wrap(self, context: ServerContext) -> None:
        """Add the outer layers. Raises `ConfigError` when the API keys cannot be read."""
        settings = context.settings
        app: ASGIApp = RequestLayer(DirectRoutes(super().__call__, DIRECT), context, keys_of(settings))
        if settings.cors_origins:
            app = CORSMiddleware(  # outermost: a page may read refusals too, and preflights carry no key
                app,
                allow_origins=settings.cors_origins,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=EXPOSED_HEADERS,
            )
        self._wrapped = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self._wrapped(scope, receive, send)


def create_app(service: InferenceService) -> Application:
    """Build the application around a service, which its lifespan starts. Raises `ConfigError`."""
    context = service.context
    settings = context.settings
    stored_responses = ResponseStore(
        settings.max_stored_responses, settings.max_stored_response_bytes, service.deployment
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            stored_responses.close()
            await service.stop()

    app = Application(
        title="trtllm-openai-server",
        version=__version__,
        description="OpenAI-compatible inference over TensorRT-LLM engines.",
        lifespan=lifespan,
        docs_url=None,  # both are pages that load their scripts from a CDN: see `api.reference`
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.context = context
    app.state.responses = stored_responses
    app.state.generation_probe = GenerationProbe(context)
    if settings.web:
        app.include_router(web.router)
    for module in (
        completions,
        chat,
        responses,
        compact,
        messages,
        tokens,
        models,
        health,
        status,
        admin,
        reference,
    ):
        app.include_router(module.router)
    errors.install(app)
    openapi.install(app)
    app.wrap(context)
    return app
