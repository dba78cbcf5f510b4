"""What a request changes about its logits before a token is chosen: penalties, biases, forbidden tokens."""

from __future__ import annotations

import math

import torch

from trtllm_openai.generation import SamplingParams


class LogitRules:
    """The rules of one sequence, in the order they apply.

    1. The repetition penalty of CTRL (https://arxiv.org/abs/1909.05858) on tokens of prompt and answer.
    2. OpenAI's frequency and presence penalties on tokens of the answer.
    3. `logit_bias`.
    4. Until `min_tokens` are out, what would end the sequence is forbidden.
    """

    __slots__ = ("_bias", "_bias_ids", "_counts", "_end_ids", "_sampling", "_seen")

    def __init__(
        self,
        sampling: SamplingParams,
        prompt: list[int],
        end_ids: frozenset[int],
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self._sampling = sampling
        self._counts = self._seen = self._bias_ids = self._bias = self._end_ids = None
        if sampling.frequency_penalty or sampling.presence_penalty:
            self._counts = torch.zeros(vocab_size, device=device)
        if sampling.repetition_penalty != 1:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self._seen[torch.tensor(prompt, device=device)] = True
        if sampling.logit_bias:
            self._bias_ids = torch.tensor(list(sampling.logit_bias), device=device)
            self._bias = torch.tensor(list(sampling.logit_bias.values()), device=device)
        ends = sorted(token for token in end_ids if 0 <= token < vocab_size)
        if sampling.min_tokens and ends:
            self._end_ids = torch.tensor(ends, device=device)

    @staticmethod
    def needed(sampling: SamplingParams) -> bool:
        """Whether the parameters ask for anything here."""
        return bool(
            sampling.presence_penalty
            or sampling.frequency_penalty
            or sampling.repetition_penalty != 1
            or sampling.logit_bias
            or sampling.min_tokens
        )

    def add(self, token: torch.Tensor) -> None:
        """A token [1] was generated; nothing waits for the device that knows it."""
        token = token.long().clamp(min=0)  # -1: no token could be chosen, and the sequence is about to end
        if self._counts is not None:
            self._counts.index_add_(0, token, torch.ones_like(token, dtype=self._counts.dtype))
        if self._seen is not None:
            self._seen.index_fill_(0, token, True)

    def apply(self, logits: torch.Tensor, generated: int) -> None:
        """Change `logits` [vocab] of the token after `generated` others, in place."""
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
        if self._end_ids is not None and generated < sampling.min_tokens:
            logits[self._end_ids] = -math.inf
