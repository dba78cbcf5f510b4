"""One request inside the engine: its tokens, how many of them are in the KV cache, and where."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from app.engines.torch.logit_rules import LogitRules
from app.generation import GenerationRequest, TokenLogprobs


@dataclass(slots=True, eq=False)
class Sequence:
    """A sequence that waits or runs. `tokens` is prompt + generated; `computed` of them are in the cache."""

    request: GenerationRequest
    tokens: list[int] = field(init=False)
    prompt_tokens: int = field(init=False)
    seed: int = field(init=False)
    computed: int = 0
    submitted: float = field(default_factory=time.monotonic)
    queued_ms: float | None = None
    """How long it waited; set when it is first admitted, until it was told."""
    blocks: list[int] = field(default_factory=list)
    swapped: torch.Tensor | None = None
    """Content of its blocks, while it waits after having run (`KVCache.copy_out`)."""
    rules: LogitRules | None = None
    matcher: Any = None
    """XGrammar's `GrammarMatcher` of a guided sequence."""
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    """As far as they are computed; None when they are not wanted, or were given out."""

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt_token_ids)
        self.prompt_tokens = len(self.tokens)
        seed = self.request.sampling.seed
        if self.request.sampling.prompt_logprobs is not None:
            self.prompt_logprobs = [None]
        self.seed = secrets.randbits(64) if seed is None else seed

    def late(self, now: float) -> bool:
        """Whether it has waited longer than it may, and never ran."""
        limit = self.request.queue_ms
        return limit is not None and not self.computed and (now - self.submitted) * 1000 > limit

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def prefilling(self) -> bool:
        """Whether a part of the prompt is still to be computed."""
        return self.computed < self.prompt_tokens
