"""The base of settings sections, and the types of their fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(ge=0)]
LONGEST_TIMEOUT = 7 * 86_400.0
"""Seconds. Event loops overflow on very large timeouts."""
Timeout = Annotated[float, Field(gt=0, le=LONGEST_TIMEOUT)] | None
Lookahead = tuple[Positive, Positive, Annotated[int, Field(ge=0)]]
"""Window, n-gram and verification set size."""

ModelNames = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(min_length=1),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]
"""One text, or a list of at least one."""

ApiKey = Annotated[str, Field(pattern=r"^[!-~]+$")]
"""Printable ASCII without spaces: it has to travel in a header."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
