"""Routing: which of several runners gets a request, by the work that each has and the prefixes it holds."""

from trtllm_openai.runners.routing.router import Route, Router

__all__ = ["Route", "Router"]
