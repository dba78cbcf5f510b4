"""What a client calls its conversation: the next turn is best on the runner that has the turns before it."""

from __future__ import annotations

from fastapi import Request

from trtllm_openai.api.headers import headers
from trtllm_openai.protocol.common import SamplingFields

SESSION_HEADERS = (
    b"x-session-id",
    b"session-id",
    b"session_id",
    b"x-session-affinity",
    b"x-claude-code-session-id",
)
"""Headers that name a session, the first with precedence: OpenCode, Codex and Claude Code send them."""


def session_of(request: Request, body: SamplingFields) -> str:
    """`prompt_cache_key`, else `session_id`, else a header; empty if nothing names it."""
    named = body.prompt_cache_key or body.session_id
    return named or next(filter(None, headers(request.scope, *SESSION_HEADERS)), "")
