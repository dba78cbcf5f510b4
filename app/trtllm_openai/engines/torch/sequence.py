"""One request inside the engine: its tokens, how many of them are in the KV cache, and where."""

from __future__ import annotations

import itertools
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from trtllm_openai.engines.torch.block_pool import block_name, first_name
from trtllm_openai.engines.torch.logit_rules import LogitRules
from trtllm_openai.generation import GenerationRequest, TokenLogprobs

DEFAULT_PRIORITY = 0.5


@dataclass(slots=True, eq=False)
class Sequence:
    """A sequence that waits or runs. `tokens` is prompt + generated; `computed` of them are in the cache.

    `prefill_end`: tokens that are computed in chunks; one at a time after them.
    """

    request: GenerationRequest
    tokens: list[int] = field(init=False)
    prompt_tokens: int = field(init=False)
    prefill_end: int = field(init=False)
    seed: int = field(init=False)
    arrival: int = field(default_factory=itertools.count().__next__)
    computed: int = 0
    unread: int = 0
    """Tokens chosen for it on the device that are not in `tokens` yet."""
    submitted: float = field(default_factory=time.monotonic)
    queued_ms: float | None = None
    """How long it waited; set when it is first admitted, until it was told."""
    cached_tokens: int | None = None
    """Prompt tokens taken from the prefix cache; set when it is first admitted."""
    blocks: list[int] = field(default_factory=list)
    block_names: list[bytes] = field(default_factory=list)
    """Names of its full blocks, as far as they were needed (`engines.torch.block_pool`)."""
    named: int = 0
    """Blocks of it that others can find."""
    preempted: bool = False
    """Whether its blocks were taken away, and it waits for others."""
    swapped: torch.Tensor | None = None
    """Content of the blocks that were taken away, when it is kept (`KVCache.copy_out`)."""
    rules: LogitRules | None = None
    matcher: Any = None
    """XGrammar's `GrammarMatcher` of a guided sequence."""
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    """As far as they are computed; None when they are not wanted, or were given out."""

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt_token_ids)
        self.prompt_tokens = self.prefill_end = len(self.tokens)
        seed = self.request.sampling.seed
        if self.request.sampling.prompt_logprobs is not None:
            self.prompt_logprobs = [None]
        self.seed = secrets.randbits(64) if seed is None else seed

    def late(self, now: float) -> bool:
        """Whether it has waited longer than it may, and never ran."""
        limit = self.request.queue_ms
        return limit is not None and self.cached_tokens is None and (now - self.submitted) * 1000 > limit

    def out_of_time(self, now: float) -> bool:
        """Whether it has taken all the time it was given."""
        limit = self.request.allotted_ms
        return limit is not None and (now - self.submitted) * 1000 > limit

    def rank(self) -> tuple[float, int]:
        """Sorts sequences by priority, then by arrival."""
        priority = self.request.priority
        return -(DEFAULT_PRIORITY if priority is None else priority), self.arrival

    def begin_again(self) -> None:
        """Have all tokens so far computed again, as one prompt."""
        self.computed, self.prefill_end = 0, len(self.tokens)
        if self.prompt_logprobs is not None:
            self.prompt_logprobs = [None]

    def names(self, count: int, block_size: int) -> list[bytes]:
        """The names of its first `count` blocks, all of them full."""
        names = self.block_names
        while len(names) < count:
            start = len(names) * block_size
            previous = names[-1] if names else first_name(self.request.cache_salt)
            names.append(block_name(previous, self.tokens[start : start + block_size]))
        return names[:count]

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def prefilling(self) -> bool:
        """Whether a part of it is still to be computed in chunks."""
        return self.computed < self.prefill_end

    @property
    def complete(self) -> bool:
        """Whether its last token was chosen, though not read yet."""
        return self.unread > 0 and self.generated + self.unread >= self.request.sampling.max_tokens
