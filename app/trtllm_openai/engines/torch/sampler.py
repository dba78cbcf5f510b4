"""Samples tokens from logits, each row with the parameters of its own sequence, independent of other rows.

Order of the filters: temperature, top_k, top_p over the tokens that top_k kept, min_p relative to the most
likely token. Tokens are drawn by inverse transform sampling from one uniform number, which is a function of
the sequence's seed and the token's position. Sums are in float64, so results depend neither on their order
nor on the number of rows.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Protocol

import torch

from trtllm_openai.engines.torch.memory import out_of_memory
from trtllm_openai.engines.torch.plan import Chunk
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.engines.torch.speculation.verification import NO_DRAFTS, Drafts, spread
from trtllm_openai.engines.torch.token_masks import constrain, constrain_drafts
from trtllm_openai.generation import TokenLogprobs

log = logging.getLogger(__name__)

FIRST_PREFIX = 128
"""Number of most likely tokens sorted first for top_k or top_p; grows if it does not suffice."""


LOWEST_TEMPERATURE = 1e-5
"""At lower temperatures the most likely token has all of the probability in float32."""
HIGHEST_TEMPERATURE = 1e10
"""At higher ones the distribution is uniform in float32; infinity would turn masked tokens into NaN."""
LARGEST_LOGIT = 1e30
"""Bound on the magnitude of a row's largest logit, so that it stays finite over any temperature."""
NO_TOKEN = -1
"""Token id that marks a row with NaN, an infinite logit or all tokens masked."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """The sampled token, or `NO_TOKEN`, with log-probabilities if the request asked for them."""

    token_id: int
    logprobs: TokenLogprobs | None


def sample(logits: torch.Tensor, sequences: list[Sequence], drafts: Drafts = NO_DRAFTS) -> list[Sampled]:
    """Sample a token for each row of `logits` (float32 [rows, vocab], modified in place).

    There is a row for each sequence, and with `drafts` one for each of its draft tokens, in the order of
    `spread`; rules then do not count the tokens. A row that cannot be sampled gets `NO_TOKEN`; other rows are
    unaffected.
    """
    ahead = None
    if drafts:
        apply_rules_to_drafts(logits, sequences, drafts)
        constrain_drafts(logits, sequences, drafts)
        sequences, ahead = spread(sequences, drafts)
    else:
        for row, sequence in zip(logits, sequences, strict=True):
            apply_rules(row, sequence, sequence.generated)
        constrain(logits, sequences)
    best = logits.argmax(-1)  # argmax returns the index of a NaN, if any
    tokens: list[int] = best.tolist()
    usable: list[bool] = (logits.gather(-1, best.unsqueeze(-1)).squeeze(-1).abs() <= LARGEST_LOGIT).tolist()
    tokens = [token if ok else NO_TOKEN for token, ok in zip(tokens, usable, strict=True)]
    random = [i for i, s in enumerate(sequences) if usable[i] and s.request.sampling.temperature > 0]
    if random:
        numbers = [
            uniform(sequences[i].seed, sequences[i].generated + (ahead[i] if ahead else 0)) for i in random
        ]
        chosen = _sample_random(logits, random, [sequences[i] for i in random], numbers)
        for index, token in zip(random, chosen, strict=True):
            tokens[index] = token
    wanted = [i for i, s in enumerate(sequences) if usable[i] and s.request.sampling.logprobs is not None]
    logprobs = _logprobs(logits, wanted, sequences, tokens) if wanted else {}
    for token, sequence in zip(tokens, sequences, strict=True) if not drafts else ():
        if sequence.rules is not None and token != NO_TOKEN:
            count_token(sequence, torch.tensor([token], device=logits.device))
    return [Sampled(token, logprobs.get(index)) for index, token in enumerate(tokens)]


def apply_rules(row: torch.Tensor, sequence: Sequence, generated: int) -> None:
    """Apply the sequence's `LogitRules` to its logits [vocab], in place.

    An error sets the row to NaN, which fails only this sequence. Out-of-memory errors are re-raised.
    """
    if sequence.rules is None:
        return
    try:
        sequence.rules.apply(row, generated)
    except Exception as error:
        _blame(sequence, error)
        row.fill_(math.nan)


def apply_rules_to_drafts(logits: torch.Tensor, sequences: list[Sequence], drafts: Drafts) -> None:
    """Apply `LogitRules` to the rows of `spread`, each in the state after the draft tokens before it."""
    first = 0
    for sequence in sequences:
        draft = drafts.get(sequence, [])
        if sequence.rules is not None:
            generated = sequence.generated + sequence.unread
            apply_rules(logits[first], sequence, generated)
            with sequence.rules.kept():
                for index, token in enumerate(draft):
                    count_token(sequence, torch.tensor([token], device=logits.device))
                    apply_rules(logits[first + index + 1], sequence, generated + index + 1)
        first += 1 + len(draft)


def count_token(sequence: Sequence, token: torch.Tensor) -> None:
    """Count a sampled token [1] in the sequence's `LogitRules`. After an error it has to end (`faulty`)."""
    if sequence.rules is None:
        return
    try:
        sequence.rules.add(token)
    except Exception as error:
        _blame(sequence, error)


def _blame(sequence: Sequence, error: Exception) -> None:
    """Mark a sequence whose values raised `error`, in its handler. Out-of-memory errors are re-raised."""
    if out_of_memory(error):
        raise error
    log.exception("request %s failed", sequence.request.request_id)
    sequence.faulty = True


def uniform(seed: int, position: int) -> float:
    """Return a number in [0, 1) with 53 random bits: SplitMix64 (https://doi.org/10.1145/2714064.2660195)."""
    return (_mix((_mix(seed & _MASK) + (position + 1) * _GOLDEN) & _MASK) >> 11) / 2**53


_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows to sample, with their parameters as columns [rows, 1]."""

    scaled: torch.Tensor
    """Logits divided by temperature, [rows, vocab]."""
    largest: torch.Tensor
    top_p: torch.Tensor
    top_k: torch.Tensor
    """The vocabulary size if top_k is off."""
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


def _sample_random(
    logits: torch.Tensor, rows: list[int], sequences: list[Sequence], numbers: list[float]
) -> list[int]:
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
        uniform=column(numbers, torch.float64),
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
    """Sample tokens [rows] from full distributions in vocabulary order, without sorting."""
    weights = (rows.scaled - rows.largest).exp_()
    if rows.min_p.any():
        weights.masked_fill_(weights < rows.min_p, 0)
    return _invert(weights, rows.uniform)


def _draw_from_prefix(rows: _Rows) -> torch.Tensor:
    """Sample tokens [rows] from distributions with top_k or top_p.

    Sorts only a prefix of the most likely tokens, and a longer one if the cutoff may lie beyond it.
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
        kept[:, 0] = True  # no filter removes the most likely token
        choice = _invert(weights * kept, part.uniform)
        tokens[pending[known]] = ids.gather(-1, choice.unsqueeze(1)).squeeze(1)[known]
        pending = pending[~known]
        size *= 8
    return tokens


def _invert(weights: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Return the index [rows] at which the normalized cumsum of `weights` [rows, n] exceeds `u` [rows, 1]."""
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
    """A model's output head."""

    def logits(self, x: torch.Tensor, sample_rows: torch.Tensor) -> torch.Tensor: ...


def prompt_logprobs(
    model: Scorer, hidden: torch.Tensor, chunk: Chunk, first_row: int
) -> list[TokenLogprobs | None]:
    """Log-probabilities of the prompt tokens that follow the chunk's rows of `hidden` [rows, hidden].

    An error that this sequence's values raise marks it `faulty` and gives none; other sequences go on.
    """
    sequence = chunk.sequence
    following = sequence.tokens[chunk.start + 1 : min(chunk.start + chunk.length + 1, sequence.prompt_tokens)]
    count = sequence.request.sampling.prompt_logprobs or 0
    result: list[TokenLogprobs | None] = []
    for start in range(0, len(following), SCORED_AT_ONCE):
        tokens = following[start : start + SCORED_AT_ONCE]
        rows = torch.arange(first_row + start, first_row + start + len(tokens), device=hidden.device)
        logits = model.logits(hidden, rows)  # computed by all ranks together
        try:
            result += _token_logprobs(logits, tokens, [count] * len(tokens), ranked=True)
        except Exception as error:
            _blame(sequence, error)
    return result


SCORED_AT_ONCE = 128
"""Prompt rows per logits computation, which bounds memory."""


def _token_logprobs(
    logits: torch.Tensor, tokens: list[int], counts: list[int], *, ranked: bool = False
) -> list[TokenLogprobs]:
    """For each row of `logits`, log-probabilities of its token and of its `counts` most likely tokens.

    `ranked`: with the rank of its token, 1 and the number of likelier ones.
    """
    counts = [min(max(count, 0), logits.shape[-1]) for count in counts]
    values = logits.float().log_softmax(-1)
    own = values.gather(-1, torch.tensor(tokens, device=logits.device).unsqueeze(1))
    chosen = own.squeeze(1).tolist()
    ranks: list[int | None] = [None] * len(tokens)
    if ranked:
        ranks = ((values > own).sum(-1) + 1).tolist()
    top_values, top_ids = (part.tolist() for part in values.topk(max(counts)))
    return [
        TokenLogprobs(
            token, chosen[n], list(zip(top_ids[n][:count], top_values[n][:count], strict=True)), ranks[n]
        )
        for n, (token, count) in enumerate(zip(tokens, counts, strict=True))
    ]
