"""One header of a request, straight from its ASGI scope.

Starlette's `Headers` is a Mapping: a look-up in it costs ten times as much, and a request has many.
"""

from __future__ import annotations

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> str | None:
    """The first header called `name` (in lower case), or None."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None
