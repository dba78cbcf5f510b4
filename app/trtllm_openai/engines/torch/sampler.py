"""Logits to tokens: every row by its own sequence's parameters, no row touched by another.

The order of the cuts: temperature, top_k, top_p over what top_k left, min_p relative to the likeliest token.
A token is chosen by one uniform number, a function of the sequence's seed and the token's position, through
the inverse of the cumulative distribution. Sums are taken in float64, so that neither their order nor the
number of rows shows.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Protocol

import torch

from trtllm_openai.engines.torch.guides import constrain
from trtllm_openai.engines.torch.memory import out_of_memory
from trtllm_openai.engines.torch.scheduler import Chunk
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.generation import TokenLogprobs

log = logging.getLogger(__name__)

FIRST_PREFIX = 128
"""Likeliest tokens looked at first when a cut needs them in order; more when that is not enough."""


LOWEST_TEMPERATURE = 1e-5
"""Below it the likeliest token has all the weight there is in float32."""
HIGHEST_TEMPERATURE = 1e10
"""Above it the distribution is uniform in float32; an infinite one would turn a forbidden token into NaN."""
LARGEST_LOGIT = 1e30
"""Bound on the magnitude of a row's largest logit: divided by a temperature it stays finite."""
NO_TOKEN = -1
"""Token id for a row with NaN, an infinite logit or no allowed token."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """The chosen token, or `NO_TOKEN`, with log-probabilities if the sequence asked for them."""

    token_id: int
    logprobs: TokenLogprobs | None


def sample(logits: torch.Tensor, sequences: list[Sequence]) -> list[Sampled]:
    """Choose a token for each row of `logits` (float32 [rows, vocab], changed in place).

    A row that cannot be sampled gets `NO_TOKEN`; the other rows are not affected.
    """
    for row, sequence in zip(logits, sequences, strict=True):
        apply_rules(row, sequence, sequence.generated)
    constrain(logits, sequences)
    best = logits.argmax(-1)  # the position of a NaN, where there is one
    tokens: list[int] = best.tolist()
    usable: list[bool] = (logits.gather(-1, best.unsqueeze(-1)).squeeze(-1).abs() <= LARGEST_LOGIT).tolist()
    tokens = [token if ok else NO_TOKEN for token, ok in zip(tokens, usable, strict=True)]
    random = [i for i, s in enumerate(sequences) if usable[i] and s.request.sampling.temperature > 0]
    if random:
        chosen = _sample_random(logits, random, [sequences[i] for i in random])
        for index, token in zip(random, chosen, strict=True):
            tokens[index] = token
    wanted = [i for i, s in enumerate(sequences) if usable[i] and s.request.sampling.logprobs is not None]
    logprobs = _logprobs(logits, wanted, sequences, tokens) if wanted else {}
    for token, sequence in zip(tokens, sequences, strict=True):
        if sequence.rules is not None and token != NO_TOKEN:
            sequence.rules.add(torch.tensor([token], device=logits.device))
    return [Sampled(token, logprobs.get(index)) for index, token in enumerate(tokens)]


def apply_rules(row: torch.Tensor, sequence: Sequence, generated: int) -> None:
    """Apply the sequence's `LogitRules` to its logits [vocab], in place.

    A failure makes the row NaN, which ends this sequence alone; only running out of memory is raised.
    """
    if sequence.rules is None:
        return
    try:
        sequence.rules.apply(row, generated)
    except Exception as error:
        if out_of_memory(error):
            raise
        log.exception("the sampling rules of request %s failed", sequence.request.request_id)
        row.fill_(math.nan)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 bits, by SplitMix64 (https://doi.org/10.1145/2714064.2660195)."""
    return (_mix((_mix(seed & _MASK) + (position + 1) * _GOLDEN) & _MASK) >> 11) / 2**53


_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows to be drawn from, and their parameters as columns [rows, 1]."""

    scaled: torch.Tensor
    """Logits over temperature."""
    largest: torch.Tensor
    top_p: torch.Tensor
    top_k: torch.Tensor
    """The vocabulary's size where there is no such cut."""
    min_p: torch.Tensor
    uniform: torch.Tensor

    def select(self, index: torch.Tensor) -> _Rows:
        return _Rows(
            self.scaled[index],
            self.largest[index],
            self.top_p[index],
            self.top_k[index],
            self.min_p[index],
            self.uniform[index],
        )


def _sample_random(logits: torch.Tensor, rows: list[int], sequences: list[Sequence]) -> list[int]:
    device, vocab = logits.device, logits.shape[-1]
    params = [sequence.request.sampling for sequence in sequences]

    def column(values: list[float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=device).unsqueeze(1)

    scaled = logits[torch.tensor(rows, device=device)] / column(
        [min(max(p.temperature, LOWEST_TEMPERATURE), HIGHEST_TEMPERATURE) for p in params]
    )
    drawn = _Rows(
        scaled=scaled,
        largest=scaled.amax(-1, keepdim=True),
        top_p=column([p.top_p for p in params], torch.float64),
        top_k=column([p.top_k if 0 < p.top_k < vocab else vocab for p in params], torch.int64),
        min_p=column([min(p.min_p, 1.0) if p.min_p > 0 else 0.0 for p in params]),
        uniform=column([uniform(s.seed, s.generated) for s in sequences], torch.float64),
    )
    cut = [p.top_p < 1 or 0 < p.top_k < vocab for p in params]
    tokens = torch.empty(len(rows), dtype=torch.int64, device=device)
    for draw, wanted in ((_draw_from_all, False), (_draw_from_prefix, True)):
        index = [i for i, is_cut in enumerate(cut) if is_cut == wanted]
        if len(index) == len(rows):
            tokens = draw(drawn)
        elif index:
            chosen = torch.tensor(index, device=device)
            tokens[chosen] = draw(drawn.select(chosen))
    result: list[int] = tokens.tolist()
    return result


def _draw_from_all(rows: _Rows) -> torch.Tensor:
    """Tokens [rows] from whole distributions, in the vocabulary's order: nothing needs sorting."""
    weights = (rows.scaled - rows.largest).exp_()
    if rows.min_p.any():
        weights.masked_fill_(weights < rows.min_p, 0)
    return _invert(weights, rows.uniform)


def _draw_from_prefix(rows: _Rows) -> torch.Tensor:
    """Tokens [rows] from distributions cut by top_k or top_p.

    Sorts only a prefix of the likeliest tokens, and more of it where the cut may lie beyond.
    """
    count, vocab = rows.scaled.shape
    totals = (rows.scaled - rows.largest).exp_().sum(-1, keepdim=True, dtype=torch.float64)
    tokens = torch.empty(count, dtype=torch.int64, device=rows.scaled.device)
    pending = torch.arange(count, device=rows.scaled.device)
    size = FIRST_PREFIX
    while len(pending):
        size = min(size, vocab)
        part = rows.select(pending)
        values, ids = part.scaled.topk(size)
        weights = (values - part.largest).exp_()
        cumulative = weights.cumsum(-1, dtype=torch.float64)
        by_rank = part.top_k <= size
        last = part.top_k.clamp(max=size) - 1
        limit = part.top_p * torch.where(by_rank, cumulative.gather(-1, last), totals[pending])
        known = (by_rank | (part.top_k == vocab) & (cumulative[:, -1:] >= limit)).squeeze(1)
        if size == vocab:
            known.fill_(True)
        rank = torch.arange(size, device=ids.device)
        kept = (rank < part.top_k) & (cumulative - weights < limit) & (weights >= part.min_p)
        kept[:, 0] = True  # the likeliest token survives every cut
        choice = _invert(weights * kept, part.uniform)
        tokens[pending[known]] = ids.gather(-1, choice.unsqueeze(1)).squeeze(1)[known]
        pending = pending[~known]
        size *= 8
    return tokens


def _invert(weights: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Index [rows] at which the cumulative share of `weights` [rows, n] passes `u` [rows, 1]."""
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:].contiguous()
    target = torch.minimum(u * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True).squeeze(1)


def _logprobs(
    logits: torch.Tensor, wanted: list[int], sequences: list[Sequence], tokens: list[int]
) -> dict[int, TokenLogprobs]:
    counts = [sequences[i].request.sampling.logprobs or 0 for i in wanted]
    rows = logits[torch.tensor(wanted, device=logits.device)]
    return dict(zip(wanted, _token_logprobs(rows, [tokens[i] for i in wanted], counts), strict=True))


class Scorer(Protocol):
    """A model's head."""

    def logits(self, x: torch.Tensor, sample_rows: torch.Tensor) -> torch.Tensor: ...


def prompt_logprobs(
    model: Scorer, hidden: torch.Tensor, chunk: Chunk, first_row: int
) -> list[TokenLogprobs | None]:
    """What the chunk's rows of `hidden` [rows, hidden] say about the prompt tokens that follow them."""
    sequence = chunk.sequence
    following = sequence.tokens[chunk.start + 1 : min(chunk.start + chunk.length + 1, sequence.prompt_tokens)]
    count = sequence.request.sampling.prompt_logprobs or 0
    result: list[TokenLogprobs | None] = []
    for start in range(0, len(following), SCORED_AT_ONCE):
        tokens = following[start : start + SCORED_AT_ONCE]
        rows = torch.arange(first_row + start, first_row + start + len(tokens), device=hidden.device)
        result += _token_logprobs(model.logits(hidden, rows), tokens, [count] * len(tokens))
    return result


SCORED_AT_ONCE = 128
"""Rows of prompt whose logits are held at once."""


def _token_logprobs(logits: torch.Tensor, tokens: list[int], counts: list[int]) -> list[TokenLogprobs]:
    """For each row of `logits` the log-probability of its token and of the `counts` likeliest ones."""
    counts = [min(max(count, 0), logits.shape[-1]) for count in counts]
    values = logits.float().log_softmax(-1)
    chosen = values.gather(-1, torch.tensor(tokens, device=logits.device).unsqueeze(1)).squeeze(1).tolist()
    top_values, top_ids = (part.tolist() for part in values.topk(max(counts)))
    return [
        TokenLogprobs(token, chosen[n], list(zip(top_ids[n][:count], top_values[n][:count], strict=True)))
        for n, (token, count) in enumerate(zip(tokens, counts, strict=True))
    ]
