"""The number of runners: one that is kept, or a range in which it follows the load."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError

from trtllm_openai.config.fields import Positive, Section

_FORMS = "must be a whole number of at least 1, or {min: N, max: M} with 1 <= N <= M"


class ReplicaRange(Section):
    """The least and the greatest number of runners."""

    min: Positive
    max: Positive

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to scale."""
        return self.min == self.max


def _read(value: Any) -> int | ReplicaRange:
    """The value as written: a number, a map, or the text of either. Raises `ValueError`."""
    try:
        if isinstance(value, str):
            value = json.loads(value)
        if isinstance(value, (dict, ReplicaRange)):
            found = ReplicaRange.model_validate(value)
            if found.min <= found.max:
                return found
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value) >= 1:
            return int(value)
    except (ValueError, OverflowError, ValidationError):
        pass
    raise ValueError(_FORMS)


Replicas = Annotated[int | ReplicaRange, BeforeValidator(_read)]
