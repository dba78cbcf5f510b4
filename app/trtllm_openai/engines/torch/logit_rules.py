"""Per-request logit processing before sampling: penalties, biases and masked tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trtllm_openai.generation import SamplingParams


class BiasTables:
    """Tables of `logit_bias` on a device: token ids and what is added. Nobody writes to them.

    The choices of a request are submitted one after the other, each with a copy of the same values: they
    share one table, which is made for the first.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._latest: tuple[dict[int, float], torch.Tensor, torch.Tensor] | None = None

    def of(self, bias: dict[int, float]) -> tuple[torch.Tensor, torch.Tensor]:
        """The table of one request's `logit_bias`, which is not empty."""
        latest = self._latest
        if latest is None or latest[0] != bias:
            ids = torch.tensor(list(bias), device=self._device)
            latest = self._latest = bias, ids, torch.tensor(list(bias.values()), device=self._device)
        return latest[1], latest[2]


class LogitRules:
    """The logit rules of one sequence, in order of application.

    1. The repetition penalty of CTRL (https://arxiv.org/abs/1909.05858), on prompt and generated tokens.
    2. OpenAI's frequency and presence penalties, on generated tokens.
    3. `logit_bias`.
    4. Tokens outside of `allowed_token_ids` are masked, and the last token of each of `bad_words` whose other
       tokens are the last ones that were generated.
    5. Until `min_tokens` are generated, end-of-sequence and stop tokens are masked.
    """

    __slots__ = ("_bias", "_bias_ids", "_counts", "_end_ids", "_forbidden", "_sampling", "_seen", "_words")

    def __init__(
        self,
        sampling: SamplingParams,
        prompt: list[int],
        end_ids: frozenset[int],
        vocab_size: int,
        device: torch.device,
        tables: BiasTables | None = None,
    ) -> None:
        """`tables`: those of the engine, whose sequences share them."""
        self._sampling = sampling
        self._counts = self._seen = self._bias_ids = self._bias = self._end_ids = self._forbidden = None
        if sampling.frequency_penalty or sampling.presence_penalty:
            self._counts = torch.zeros(vocab_size, device=device)
        if sampling.repetition_penalty != 1:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self._seen[torch.tensor(prompt, device=device)] = True
        if sampling.logit_bias:
            self._bias_ids, self._bias = (tables or BiasTables(device)).of(sampling.logit_bias)
        if sampling.allowed_token_ids:
            self._forbidden = torch.ones(vocab_size, dtype=torch.bool, device=device)
            self._forbidden[torch.tensor(sampling.allowed_token_ids, device=device)] = False
        self._words = _BadWords(sampling.bad_words, device) if sampling.bad_words else None
        ends = sorted(token for token in end_ids if 0 <= token < vocab_size)
        if sampling.min_tokens and ends:
            self._end_ids = torch.tensor(ends, device=device)

    @staticmethod
    def needed(sampling: SamplingParams) -> bool:
        """Whether the parameters require any rule."""
        return bool(
            sampling.presence_penalty
            or sampling.frequency_penalty
            or sampling.repetition_penalty != 1
            or sampling.logit_bias
            or sampling.min_tokens
            or sampling.allowed_token_ids
            or sampling.bad_words
        )

    def add(self, token: torch.Tensor) -> None:
        """Count a generated token [1], without synchronizing with its device."""
        token = token.long().clamp(min=0)  # -1 (no token possible): the sequence is about to fail
        if self._counts is not None:
            self._counts.index_add_(0, token, torch.ones_like(token, dtype=self._counts.dtype))
        if self._seen is not None:
            self._seen.index_fill_(0, token, True)
        if self._words is not None:
            self._words.add(token)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Forget at the end of the context what was counted in it."""
        counts = self._counts.clone() if self._counts is not None else None
        seen = self._seen.clone() if self._seen is not None else None
        recent = self._words.recent if self._words is not None else None
        try:
            yield
        finally:
            self._counts, self._seen = counts, seen
            if self._words is not None and recent is not None:
                self._words.recent = recent

    def apply(self, logits: torch.Tensor, generated: int) -> None:
        """Modify `logits` [vocab] in place; `generated`: number of tokens generated so far."""
        sampling = self._sampling
        if self._seen is not None:
            penalty = sampling.repetition_penalty
            punished = torch.where(logits > 0, logits / penalty, logits * penalty)
            logits.copy_(torch.where(self._seen, punished, logits))
        if self._counts is not None:
            logits -= sampling.frequency_penalty * self._counts
            logits -= sampling.presence_penalty * (self._counts > 0)
        if self._bias_ids is not None and self._bias is not None:
            logits[self._bias_ids] += self._bias
        if self._forbidden is not None:
            logits.masked_fill_(self._forbidden, -math.inf)
        if self._words is not None:
            self._words.apply(logits)
        if self._end_ids is not None and generated < sampling.min_tokens:
            logits[self._end_ids] = -math.inf


class _BadWords:
    """Sequences of tokens that are not generated, compared with the last tokens on their device."""

    __slots__ = ("_any", "_before", "_last", "recent")

    def __init__(self, words: tuple[tuple[int, ...], ...], device: torch.device) -> None:
        longest = max(map(len, words)) - 1
        padded = [[_ANY] * (longest + 1 - len(word)) + list(word[:-1]) for word in words]
        self._before = torch.tensor(padded, dtype=torch.int64, device=device).reshape(len(words), longest)
        """The tokens before the last one of each word, [words, longest]; shorter words begin with `_ANY`."""
        self._any = self._before == _ANY
        self._last = torch.tensor([word[-1] for word in words], device=device)
        self.recent = torch.full((longest,), _NONE, dtype=torch.int64, device=device)
        """The last tokens that were generated; replaced, not modified, by `add`."""

    def add(self, token: torch.Tensor) -> None:
        """Note a generated token [1]."""
        if len(self.recent):
            self.recent = torch.cat((self.recent[1:], token))

    def apply(self, logits: torch.Tensor) -> None:
        """Mask the tokens of `logits` [vocab] that would complete a word, in place."""
        complete = ((self._before == self.recent) | self._any).all(-1)
        change = torch.zeros_like(self._last, dtype=logits.dtype).masked_fill_(complete, -math.inf)
        logits.index_add_(0, self._last, change)  # added, since several words may end with the same token


_ANY = -1
_NONE = -2
"""In place of tokens: one of no word, and one that is not generated yet."""
