"""Applies the token masks of guides to a batch of logits."""

from __future__ import annotations

import logging

import numpy as np
import torch

from trtllm_openai.engines.torch.guides import GuideMatcher
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.engines.torch.speculation.verification import Drafts

log = logging.getLogger(__name__)

Masks = np.ndarray[tuple[int, int], np.dtype[np.int32]]
"""[rows, vocab / 32], a bit for each token that is allowed."""


def constrain(logits: torch.Tensor, sequences: list[Sequence]) -> None:
    """Mask `logits` [rows, vocab] in place: tokens that a row's guide does not allow become -inf.

    A row with a failed guide is masked completely, which fails only that sequence.
    """
    rows = [row for row, sequence in enumerate(sequences) if sequence.matcher is not None]
    if not rows:
        return
    masks = _masks(len(rows), logits)
    for mask, row in zip(masks, rows, strict=True):
        _fill(mask, sequences[row].matcher, sequences[row])
    _forbid(logits, rows, masks)


def constrain_drafts(logits: torch.Tensor, sequences: list[Sequence], drafts: Drafts) -> None:
    """`constrain` for the rows of `spread`: each in the state after the draft tokens before it.

    After a draft token that the guide does not accept, or that ends the text, no token is allowed: none of
    these rows can count.
    """
    first, rows = 0, list[int]()
    guided: list[tuple[Sequence, list[int]]] = []
    for sequence in sequences:
        draft = drafts.get(sequence, [])
        if sequence.matcher is not None:
            rows += range(first, first + 1 + len(draft))
            guided.append((sequence, draft))
        first += 1 + len(draft)
    if not rows:
        return
    masks, at = _masks(len(rows), logits), 0
    for sequence, draft in guided:
        _fill(masks[at], sequence.matcher, sequence)
        if draft:
            _fill_ahead(masks[at + 1 : at + 1 + len(draft)], draft, sequence)
        at += 1 + len(draft)
    _forbid(logits, rows, masks)


def _masks(rows: int, logits: torch.Tensor) -> Masks:
    return np.empty((rows, -(-logits.shape[-1] // 32)), dtype=np.int32)


def _fill(
    mask: np.ndarray[tuple[int], np.dtype[np.int32]], matcher: GuideMatcher, sequence: Sequence
) -> None:
    try:
        matcher.fill_mask(mask)
    except Exception:
        log.exception("the guide of request %s failed", sequence.request.request_id)
        mask.fill(0)


def _fill_ahead(masks: Masks, draft: list[int], sequence: Sequence) -> None:
    """Fill the masks after each token of a draft; a failure is the draft's, and not the sequence's."""
    masks.fill(0)
    try:
        matcher = sequence.matcher.ahead()
        for mask, token in zip(masks, draft, strict=True):
            if not matcher.accept_token(token) or matcher.is_terminated():
                break
            matcher.fill_mask(mask)
        sequence.matcher.draft_seconds += matcher.seconds - sequence.matcher.seconds
    except Exception:
        log.exception("the guide of request %s failed on a draft", sequence.request.request_id)


def _forbid(logits: torch.Tensor, rows: list[int], masks: Masks) -> None:
    """Set the logits of the tokens that are not in the `masks` of `rows` to -inf."""
    vocab = logits.shape[-1]
    bits = np.unpackbits(masks.view(np.uint8), axis=1, count=vocab, bitorder="little")
    forbidden = torch.from_numpy(bits == 0)
    if logits.is_cuda:
        forbidden = forbidden.pin_memory().to(logits.device, non_blocking=True)
    for index, row in enumerate(rows):
        logits[row].masked_fill_(forbidden[index], -torch.inf)
