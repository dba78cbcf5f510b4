"""The plan of a step and its limits. The scheduler makes plans; executors and ranks read them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from trtllm_openai.engines.torch.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a step.

    `max_num_tokens`: tokens per step. `chunk`: tokens per prefill chunk, and for all chunks together while
    sequences decode. `tile`: chunks end at its multiples. `draft_rows`: rows per step that sample a token,
    with those of drafts, at least `max_batch_size`; 0 without speculative decoding. `exact`: responses are
    bitwise independent of the batch and of the cache; only whole prompt tiles are then reused, and nothing is
    ever recomputed.
    """

    max_batch_size: int
    max_num_tokens: int
    chunk: int
    block_size: int
    tile: int = 1
    exact: bool = False
    draft_rows: int = 0
    prefix_caching: bool = True

    @property
    def grain(self) -> int:
        """Lengths of cached prefixes are multiples of this number of tokens."""
        return math.lcm(self.tile, self.block_size)

    @property
    def sampled_rows(self) -> int:
        """Most rows that sample a token in a step."""
        return max(self.max_batch_size, self.draft_rows)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A prefill chunk: tokens[start : start + length] of a sequence."""

    sequence: Sequence
    start: int
    length: int

    @property
    def last(self) -> bool:
        """Whether this is the last chunk, after which the first token is sampled."""
        return self.start + self.length == self.sequence.prefill_end


@dataclass(slots=True)
class Plan:
    """One step: sequences that decode one token each, prefill chunks, and draft tokens to verify.

    A sequence in `drafts` is in `decode`; its draft continues its tokens. `first`: all of it goes first.
    `context`: about how many tokens the sequences of `decode` have in the KV cache; only set with a time
    budget.
    """

    decode: list[Sequence] = field(default_factory=list)
    prefill: list[Chunk] = field(default_factory=list)
    drafts: dict[Sequence, list[int]] = field(default_factory=dict)
    first: bool = False
    context: int = 0

    @property
    def decode_rows(self) -> int:
        """Rows of `decode` and its drafts."""
        return len(self.decode) + sum(map(len, self.drafts.values()))

    def __bool__(self) -> bool:
        return bool(self.decode or self.prefill)
