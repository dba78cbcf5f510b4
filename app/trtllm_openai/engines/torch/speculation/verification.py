"""Verifies drafts: a token is drawn at every draft position, and counts up to the first that differs.

A sequence with a draft of k tokens has k + 1 rows in a step: its last token, then the draft. Row i gives the
logits of the position after the first i draft tokens, and its token is drawn as it would be without a draft:
from those logits, with the rules and the guide in the state after these tokens, and with the random number of
that position. As long as the drawn tokens are the draft's, the next row computed what a step of its own would
have. Leviathan et al., "Fast Inference from Transformers via Speculative Decoding"
(https://arxiv.org/abs/2211.17192), whose rejection sampling this replaces: one random number a position makes
the answer itself, not only its distribution, independent of the drafts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from trtllm_openai.engines.torch.sequence import Sequence

Drafts = Mapping["Sequence", list[int]]
"""The draft tokens of the sequences in a step that have any."""
NO_DRAFTS: Drafts = {}


class Token(Protocol):
    """What was drawn at one position."""

    @property
    def token_id(self) -> int: ...


def spread(sequences: list[Sequence], drafts: Drafts) -> tuple[list[Sequence], list[int]]:
    """The sequence of each row to sample, and how many draft tokens come before the row."""
    rows: list[Sequence] = []
    ahead: list[int] = []
    for sequence in sequences:
        count = 1 + len(drafts.get(sequence, ()))
        rows += [sequence] * count
        ahead += range(count)
    return rows, ahead


T = TypeVar("T", bound=Token)


def verified(
    sequences: list[Sequence], drafts: Drafts, drawn: list[T]
) -> Iterator[tuple[Sequence, int, list[T]]]:
    """For each sequence the length of its draft, and the tokens of its rows that count: one at least.

    `drawn`: the tokens of all rows, in the order of `spread`.
    """
    first = 0
    for sequence in sequences:
        draft = drafts.get(sequence, ())
        count = 1
        for expected in draft:
            if drawn[first + count - 1].token_id != expected:
                break
            count += 1
        yield sequence, len(draft), drawn[first : first + count]
        first += 1 + len(draft)
