"""Tokens from logits without sorting: top_k, top_p and min_p as thresholds, found bit by bit.

The order of the cuts is that of `engines.torch.sampler`: temperature, top_k, top_p over what top_k left,
min_p relative to the likeliest token. Among equal logits the cuts keep those that come first. The token is
where the cumulative share of what is left, in the vocabulary's order, passes the row's uniform number.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

CHUNK = 4096
"""Logits looked at at once."""


@triton.jit
def _order(values):
    """float32 → int32 that sort alike."""
    bits = values.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _scaled(logits, offsets, vocab, temperature):
    values = tl.load(logits + offsets, mask=offsets < vocab, other=float("-inf")).to(tl.float32)
    return values / temperature


@triton.jit
def _chunk_shares(logits, row_stride, vocab, cuts, tops, top_ids, sums, chunks, CHUNK: tl.constexpr):
    """Each chunk's largest logit, its first place, and the sum of exp(logit - largest)."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    offsets = chunk * CHUNK + tl.arange(0, CHUNK)
    temperature = tl.load(cuts + row * 4)
    values = _scaled(
        logits + row.to(tl.int64) * row_stride, offsets, vocab, tl.where(temperature > 0, temperature, 1.0)
    )
    top = tl.max(values)
    # A NaN anywhere in the row makes its largest logit infinite, which `_choose` refuses.
    top = tl.where(tl.max((values != values).to(tl.int32)) > 0, float("inf"), top)
    place = row * chunks + chunk
    tl.store(tops + place, top)
    tl.store(top_ids + place, tl.min(tl.where(values == top, offsets, vocab)))
    weights = tl.where(values > float("-inf"), tl.exp(values - top), 0.0)
    tl.store(sums + place, tl.sum(weights))


@triton.jit
def _mass(line, vocab, temperature, top, key, step, BY_COUNT: tl.constexpr, CHUNK: tl.constexpr):
    """How many logits, or how much weight, reach key + step, key + 2 step, key + 3 step."""
    one = tl.zeros([CHUNK], tl.float32)
    two = tl.zeros([CHUNK], tl.float32)
    three = tl.zeros([CHUNK], tl.float32)
    for first in range(0, vocab, CHUNK):
        offsets = first + tl.arange(0, CHUNK)
        values = _scaled(line, offsets, vocab, temperature)
        order = _order(values)
        weights = tl.where(offsets < vocab, 1.0, 0.0) if BY_COUNT else tl.exp(values - top)
        one += tl.where(order >= key + step, weights, 0.0)
        two += tl.where(order >= key + step + step, weights, 0.0)
        three += tl.where(order >= key + step + step + step, weights, 0.0)
    return tl.sum(one), tl.sum(two), tl.sum(three)


@triton.jit
def _threshold(line, vocab, temperature, top, wanted, BY_COUNT: tl.constexpr, CHUNK: tl.constexpr):
    """The largest key that logits of `wanted` number, or weight, reach together: two bits at a time."""
    key = tl.full([], -2147483648, tl.int32)
    step = tl.full([], 1 << 30, tl.int32)
    for _ in range(16):
        one, two, three = _mass(line, vocab, temperature, top, key, step, BY_COUNT, CHUNK)
        reached = (one >= wanted).to(tl.int32) + (two >= wanted).to(tl.int32) + (three >= wanted).to(tl.int32)
        key += reached * step
        step = step >> 2
    return key


@triton.jit
def _above(line, vocab, temperature, top, key, CHUNK: tl.constexpr):
    """Number and weight of the logits beyond `key`, and the weight of one that is at it."""
    count = tl.zeros([CHUNK], tl.float32)
    weight = tl.zeros([CHUNK], tl.float32)
    equal = tl.zeros([CHUNK], tl.float32)
    for first in range(0, vocab, CHUNK):
        offsets = first + tl.arange(0, CHUNK)
        values = _scaled(line, offsets, vocab, temperature)
        order = _order(values)
        weights = tl.exp(values - top)
        count += tl.where(order > key, 1.0, 0.0)
        weight += tl.where(order > key, weights, 0.0)
        equal = tl.maximum(equal, tl.where(order == key, weights, 0.0))
    return tl.sum(count), tl.sum(weight), tl.max(equal)


@triton.jit
def _kept(line, first, vocab, temperature, top, key, ties, seen, min_p, CHUNK: tl.constexpr):
    """Weights of a chunk after the cuts, and how many logits at `key` were seen up to its end."""
    offsets = first + tl.arange(0, CHUNK)
    values = _scaled(line, offsets, vocab, temperature)
    order = _order(values)
    weights = tl.where(values > float("-inf"), tl.exp(values - top), 0.0)
    at_key = (order == key) & (offsets < vocab)
    rank = seen + tl.cumsum(at_key.to(tl.int32), 0)
    keep = ((order > key) | (at_key & (rank <= ties))) & (weights >= min_p)
    return tl.where(keep, weights, 0.0), seen + tl.sum(at_key.to(tl.int32))


@triton.jit
def _choose(
    logits,
    row_stride,
    vocab,
    cuts,
    top_ks,
    uniforms,
    slots,
    tops,
    top_ids,
    sums,
    tokens,
    last_tokens,
    chunks,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    row = tl.program_id(0)
    line = logits + row.to(tl.int64) * row_stride
    index = tl.arange(0, CHUNKS)
    there = index < chunks
    chunk_tops = tl.load(tops + row * chunks + index, mask=there, other=float("-inf"))
    top = tl.max(chunk_tops)
    best = tl.load(top_ids + row * chunks + index, mask=there & (chunk_tops == top), other=vocab)
    token = tl.min(best)
    temperature = tl.load(cuts + row * 4)
    if temperature > 0:
        top_p = tl.load(cuts + row * 4 + 1)
        min_p = tl.load(cuts + row * 4 + 2)
        top_k = tl.load(top_ks + row)
        key = tl.full([], -2147483648, tl.int32)
        ties = vocab
        shares = tl.load(sums + row * chunks + index, mask=there, other=0.0) * tl.exp(chunk_tops - top)
        shares = tl.where(there & (chunk_tops > float("-inf")), shares, 0.0)
        total = tl.sum(shares.to(tl.float64))
        if top_k < vocab:
            key = _threshold(line, vocab, temperature, top, top_k.to(tl.float32), True, CHUNK)
            count, weight, equal = _above(line, vocab, temperature, top, key, CHUNK)
            ties = top_k - count.to(tl.int32)
            total = weight.to(tl.float64) + ties * equal.to(tl.float64)
        if top_p < 1:
            limit = top_p * total.to(tl.float32)
            found = _threshold(line, vocab, temperature, top, limit, False, CHUNK)
            count, weight, equal = _above(line, vocab, temperature, top, found, CHUNK)
            enough = tl.maximum(tl.ceil((limit - weight) / equal), 1.0)
            enough = tl.minimum(enough, vocab).to(tl.int32)
            ties = tl.where(found > key, enough, tl.where(found == key, tl.minimum(ties, enough), ties))
            key = tl.maximum(found, key)
        seen = tl.full([], 0, tl.int32)
        seen_before = tl.zeros([CHUNKS], tl.int32)
        if (top_k < vocab) | (top_p < 1) | (min_p > 0):
            for chunk in range(chunks):
                seen_before = tl.where(index == chunk, seen, seen_before)
                weights, seen = _kept(
                    line, chunk * CHUNK, vocab, temperature, top, key, ties, seen, min_p, CHUNK
                )
                shares = tl.where(index == chunk, tl.sum(weights), shares)
        reached = tl.cumsum(shares.to(tl.float64), 0)
        target = tl.load(uniforms + row) * tl.max(reached)
        # Rounding must not lead beyond the last chunk that has any weight.
        last = tl.max(tl.where(shares > 0, index, 0))
        chosen = tl.minimum(tl.sum((reached <= target).to(tl.int32)), last)
        before = tl.sum(tl.where(index < chosen, shares, 0.0).to(tl.float64))
        seen = tl.sum(tl.where(index == chosen, seen_before, 0))
        weights, seen = _kept(line, chosen * CHUNK, vocab, temperature, top, key, ties, seen, min_p, CHUNK)
        offsets = chosen * CHUNK + tl.arange(0, CHUNK)
        passed = (tl.cumsum(weights, 0) > (target - before).to(tl.float32)) & (weights > 0)
        first = tl.min(tl.where(passed, offsets, vocab))
        final = tl.max(tl.where(weights > 0, offsets, 0))
        token = tl.minimum(first, final)
    usable = (top > -1e35) & (top < 1e35) & (token >= 0) & (token < vocab)
    token = tl.where(usable, token, -1)
    tl.store(tokens + row, token)
    # The next step may already be launched and looks this id up in the embedding.
    tl.store(last_tokens + tl.load(slots + row), tl.maximum(token, 0))


class Sampler:
    """The kernels, with their scratch memory for `max_rows` rows of `vocab` logits."""

    def __init__(self, vocab: int, max_rows: int, device: torch.device, chunk: int = CHUNK) -> None:
        self._vocab, self._chunk = vocab, chunk
        self._chunks = triton.cdiv(vocab, chunk)
        size = max_rows * self._chunks
        self._tops = torch.empty(size, dtype=torch.float32, device=device)
        self._top_ids = torch.empty(size, dtype=torch.int32, device=device)
        self._sums = torch.empty(size, dtype=torch.float32, device=device)

    def __call__(
        self,
        logits: torch.Tensor,
        cuts: torch.Tensor,
        top_k: torch.Tensor,
        uniform: torch.Tensor,
        slots: torch.Tensor,
        last_tokens: torch.Tensor,
        tokens: torch.Tensor,
    ) -> None:
        """Write `tokens` [rows] and `last_tokens`[slots], both int32.

        A row with NaN, an infinite logit or no allowed token gets -1 in `tokens` and 0 in `last_tokens`.

        `cuts` float32 [rows, 4]: temperature (0: the likeliest token), top_p, min_p, unused; `top_k` int32
        [rows], the vocabulary's size where there is no such cut; `uniform` float64 [rows] in [0, 1).
        """
        rows = len(tokens)
        stride = logits.stride(0)
        _chunk_shares[(rows, self._chunks)](
            logits,
            stride,
            self._vocab,
            cuts,
            self._tops,
            self._top_ids,
            self._sums,
            self._chunks,
            CHUNK=self._chunk,
            num_warps=8,
        )
        _choose[(rows,)](
            logits,
            stride,
            self._vocab,
            cuts,
            top_k,
            uniform,
            slots,
            self._tops,
            self._top_ids,
            self._sums,
            tokens,
            last_tokens,
            self._chunks,
            CHUNK=self._chunk,
            CHUNKS=triton.next_power_of_2(self._chunks),
            num_warps=16,
        )
