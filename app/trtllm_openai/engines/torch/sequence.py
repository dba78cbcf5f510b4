"""The state of one request in the engine: its tokens and its KV blocks."""

from __future__ import annotations

import itertools
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from trtllm_openai.engines.torch.block_pool import block_name, first_name
from trtllm_openai.engines.torch.logit_rules import LogitRules
from trtllm_openai.generation import DEFAULT_PRIORITY, GenerationRequest, TokenLogprobs


@dataclass(slots=True, eq=False)
class Sequence:
    """A waiting or running sequence. `tokens` is prompt + generated; `computed` of them are in the KV cache.

    `prefill_end`: number of tokens to prefill in chunks; later ones are decoded one at a time.
    """

    request: GenerationRequest
    tokens: list[int] = field(init=False)
    prompt_tokens: int = field(init=False)
    prefill_end: int = field(init=False)
    seed: int = field(init=False)
    arrival: int = field(default_factory=itertools.count().__next__)
    computed: int = 0
    unread: int = 0
    """Tokens sampled on the device that are not in `tokens` yet."""
    submitted: float = field(default_factory=time.monotonic)
    queued_ms: float | None = None
    """Time in the queue; set on first admission, cleared once reported."""
    cached_tokens: int | None = None
    """Prompt tokens found in the prefix cache; set on first admission."""
    blocks: list[int] = field(default_factory=list)
    block_names: list[bytes] = field(default_factory=list)
    """Hash names of its first full blocks, computed on demand (`engines.torch.block_pool`)."""
    _first_name: bytes = field(init=False)  # computed on submission, where a salt may be refused
    named: int = 0
    """Number of its blocks published in the prefix cache."""
    preempted: bool = False
    """Whether it was preempted and waits to be admitted again."""
    swapped: torch.Tensor | None = None
    """Content of the blocks of a preempted sequence, if swapped to host memory (`KVCache.copy_out`)."""
    rules: LogitRules | None = None
    matcher: Any = None
    """The `GuideMatcher` of a guided sequence (`engines.torch.guides`)."""
    drafting: Any = None
    """What the drafter knows about it, once it has looked for drafts (`speculation.drafter.Drafting`)."""
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    """The ones computed so far; None if not requested or already returned."""
    faulty: bool = False
    """An exception was raised for its values: it has to end with an error."""

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt_token_ids)
        self.prompt_tokens = self.prefill_end = len(self.tokens)
        seed = self.request.sampling.seed
        if self.request.sampling.prompt_logprobs is not None:
            self.prompt_logprobs = [None]
        self.seed = secrets.randbits(64) if seed is None else seed
        self._first_name = first_name(self.request.cache_salt)

    def out_of_time(self, now: float) -> bool:
        """Whether it exceeded its time limit."""
        limit = self.request.allotted_ms
        return limit is not None and (now - self.submitted) * 1000 > limit

    def rank(self) -> tuple[float, int]:
        """Sort key: by priority, then by arrival."""
        priority = self.request.priority
        return -(DEFAULT_PRIORITY if priority is None else priority), self.arrival

    def begin_again(self) -> None:
        """Reset for recomputation: prefill all tokens so far as one prompt."""
        self.computed, self.prefill_end = 0, len(self.tokens)
        if self.prompt_logprobs is not None:
            self.prompt_logprobs = [None]

    def names(self, count: int, block_size: int) -> list[bytes]:
        """Return the hash names of its first `count` blocks, which must be full."""
        names = self.block_names
        while len(names) < count:
            start = len(names) * block_size
            previous = names[-1] if names else self._first_name
            names.append(block_name(previous, self.tokens[start : start + block_size]))
        return names[:count]

    @property
    def salt_digest(self) -> str | None:
        """What stands for the salt of its block names, in hexadecimal; None without a salt."""
        return None if self.request.cache_salt is None else self._first_name.hex()

    @property
    def generated(self) -> int:
        """Number of tokens generated so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def prefilling(self) -> bool:
        """Whether it has tokens left to prefill."""
        return self.computed < self.prefill_end

    @property
    def complete(self) -> bool:
        """Whether its last token was sampled but not read yet."""
        return self.unread > 0 and self.generated + self.unread >= self.request.sampling.max_tokens
