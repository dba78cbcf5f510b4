"""Turns sampled tokens into outputs, and decides which token is the last of its sequence.

An output with a `finish_reason` ends its sequence: the caller removes it from the scheduler.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import torch

from trtllm_openai.engines.base import FAILED_ON_REQUEST
from trtllm_openai.engines.torch.guides import TOO_COMPLEX
from trtllm_openai.engines.torch.plan import Plan
from trtllm_openai.engines.torch.sampler import NO_TOKEN, Sampled, count_token
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.generation import EngineInfo, EngineStats, StepOutput

log = logging.getLogger(__name__)

NO_TOKEN_POSSIBLE = "no_token_possible"
"""Error code for a sequence whose sampling parameters or guide mask out every token."""


class OutputProcessor:
    """Appends sampled tokens to the sequences of one engine, and counts them."""

    def __init__(self, info: EngineInfo, device: torch.device) -> None:
        """`device`: where logits are."""
        self._eos = frozenset(info.eos_token_ids)
        self._device = device
        self._generated = 0
        self._guides_ended: Counter[str] = Counter()  # by reason

    def take(self, sequence: Sequence, sampled: Sampled) -> StepOutput:
        """Append a token to its sequence. Never raises: a sequence that cannot use it ends with an error."""
        self._generated += sampled.token_id != NO_TOKEN
        try:
            return failed(sequence) if sequence.faulty else self._take(sequence, sampled)
        except Exception:
            log.exception("the token of request %s cannot be used", sequence.request.request_id)
            return failed(sequence)

    def take_all(
        self, sequence: Sequence, sampled: list[Sampled], accept: Callable[[Sequence], None]
    ) -> tuple[list[StepOutput], int]:
        """Append the tokens that count after a draft was verified, as `take` would in steps of their own.

        `sampled`: the first of them, and one for each right draft token. `accept` is called before each of
        these. Returns one output, or a second for an error after the first tokens, and how many draft tokens
        were taken: fewer than there are if the sequence ends among them.
        """
        output = self._take_counted(sequence, sampled[0])
        outputs = [output]
        accepted = 0
        for token in sampled[1:]:
            if output.finish_reason is not None:
                break
            accept(sequence)
            accepted += 1
            more = self._take_counted(sequence, token)
            if more.finish_reason == "error":
                output = more
                outputs.append(output)
            else:
                output.add(more)
        return outputs, accepted

    def count(self, stats: EngineStats) -> None:
        """Set the totals of all sequences."""
        stats.generated_tokens = self._generated
        stats.guides_ended = dict(self._guides_ended)

    def _take_counted(self, sequence: Sequence, sampled: Sampled) -> StepOutput:
        """Take a token of a step with drafts, which the sampler has not counted."""
        output = self.take(sequence, sampled)
        if sequence.rules is not None and output.finish_reason is None:
            count_token(sequence, torch.tensor([sampled.token_id], device=self._device))
        return output

    def _take(self, sequence: Sequence, sampled: Sampled) -> StepOutput:
        sampling = sequence.request.sampling
        output = StepOutput(sequence.request.request_id, [])
        output.prompt_logprobs, sequence.prompt_logprobs = sequence.prompt_logprobs, None
        output.queued_ms, sequence.queued_ms = sequence.queued_ms, None
        if not sequence.generated:
            output.cached_tokens = sequence.cached_tokens or 0
        if sampling.max_tokens == 0:
            output.finish_reason = "length"
            return output
        token = sampled.token_id
        if token == NO_TOKEN:
            return self._without_token(sequence, output)
        sequence.tokens.append(token)
        output.token_ids.append(token)
        if sampled.logprobs is not None:
            output.logprobs = [sampled.logprobs]
        if (token in self._eos and not sampling.ignore_eos) or token in sampling.stop_token_ids:
            output.finish_reason, output.stop_token_id = "stop", token
        elif sequence.matcher is not None and not sequence.matcher.accept_token(token):
            return self._without_token(sequence, output)
        elif sequence.matcher is not None and sequence.matcher.is_terminated():
            output.finish_reason = "stop"
        elif sequence.generated >= sampling.max_tokens:
            output.finish_reason = "length"
        return output

    def _without_token(self, sequence: Sequence, output: StepOutput) -> StepOutput:
        """Fail a sequence for which no token can be chosen."""
        why, guide, matcher = "the sampling parameters allow none", sequence.request.guide, sequence.matcher
        if guide is not None and matcher is not None:
            self._guides_ended[TOO_COMPLEX if matcher.too_complex else NO_TOKEN_POSSIBLE] += 1
            output.error_param = guide.param or None
            why = (
                f"{guide.called} ended: {matcher.error}"
                if matcher.error
                else "the sampling parameters and the guide allow none"
            )
        output.token_ids, output.logprobs, output.finish_reason = [], None, "error"
        output.error = f"No token can be chosen: {why}."
        output.error_code = NO_TOKEN_POSSIBLE
        return output


def begun(plan: Plan) -> list[StepOutput]:
    """Say that sequences have left the queue whose prefill takes further steps."""
    outputs = []
    for chunk in plan.prefill:
        sequence = chunk.sequence
        if sequence.queued_ms is not None and sequence.prefilling:
            outputs.append(StepOutput(sequence.request.request_id, [], queued_ms=sequence.queued_ms))
            sequence.queued_ms = None
    return outputs


def failed(sequence: Sequence) -> StepOutput:
    """The last output of a sequence for which an exception was raised."""
    return StepOutput(sequence.request.request_id, [], "error", error=FAILED_ON_REQUEST)
