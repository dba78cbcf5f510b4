"""Which requests share cached prefixes: of prompts in the engine, and of their text in the tokenizer.

A hit is visible in `cached_tokens` and in latency. So that it tells nothing about another tenant's prompts,
prefixes are shared within an API key only (`prefix_sharing: key`), and there among equal `cache_salt`s.
"""

from __future__ import annotations

from fastapi import Request

from trtllm_openai.api.context import ServerContext
from trtllm_openai.api.middleware import api_key_name


def prefix_salt(request: Request, cache_salt: str | None) -> str | None:
    """The salt of a request's cache entries, from its key and the client's `cache_salt`; None: no salt."""
    context: ServerContext = request.app.state.context
    key = api_key_name(request)
    if not key or context.settings.prefix_sharing == "all":
        return cache_salt
    return f"{key} {cache_salt or ''}"  # names have no spaces, so that no two pairs give the same
