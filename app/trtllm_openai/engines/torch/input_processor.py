"""Turns requests into sequences, and refuses those that the engine can never run."""

from __future__ import annotations

from itertools import chain

import torch

from trtllm_openai.engines.torch.logit_rules import BiasTables, LogitRules
from trtllm_openai.engines.torch.memory import out_of_memory
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import EngineInfo, GenerationRequest


class InputProcessor:
    """Makes the sequences of one engine."""

    def __init__(self, info: EngineInfo, device: torch.device) -> None:
        """`device`: where logits are."""
        self._info = info
        self._device = device
        self._eos = frozenset(info.eos_token_ids)
        self._bias_tables = BiasTables(device)

    def sequence(self, request: GenerationRequest) -> Sequence:
        """A new sequence, with its logit rules. Raises `InvalidRequest` with the parameter at fault."""
        check(request, self._info)
        sequence = Sequence(request)
        if LogitRules.needed(request.sampling):
            sequence.rules = self._rules(request)
        return sequence

    def _rules(self, request: GenerationRequest) -> LogitRules:
        # With a guide, the guide alone decides where the text may end, unless that is anywhere.
        free = request.guide is None or request.guide.endless
        ends = self._eos.union(request.sampling.stop_token_ids) if free else frozenset()
        try:
            return LogitRules(
                request.sampling,
                request.prompt_token_ids,
                ends,
                self._info.vocab_size,
                self._device,
                self._bias_tables,
            )
        except Exception as error:
            if out_of_memory(error):
                raise
            raise InvalidRequest(f"The sampling parameters cannot be applied: {error}") from error


def check(request: GenerationRequest, info: EngineInfo) -> None:
    """Raises `InvalidRequest` for tokens outside of the vocabulary, a guide of another engine, or a length.

    Sampling parameters were checked against `info.capabilities` before (`generation.build`).
    """
    prompt, sampling = request.prompt_token_ids, request.sampling
    if not prompt:
        raise InvalidRequest("The prompt is empty.", "prompt")
    for name, tokens in (
        ("prompt", (min(prompt), max(prompt))),
        ("logit_bias", sampling.logit_bias or ()),
        ("allowed_token_ids", sampling.allowed_token_ids),
        ("bad_words", tuple(chain.from_iterable(sampling.bad_words))),
        ("prediction", request.prediction_token_ids),
    ):
        for token in tokens:
            if not 0 <= token < info.vocab_size:
                raise InvalidRequest(f"Token id {token} is outside of the vocabulary.", name)
    if request.guide is not None and request.guide.kind not in info.capabilities.guides:
        raise InvalidRequest(
            "This engine does not support this kind of guided decoding.",
            request.guide.param,
            "unsupported_parameter",
        )
    total = len(prompt) + sampling.max_tokens
    if total > info.max_seq_len:
        raise InvalidRequest(
            f"{total} tokens exceed the limit of {info.max_seq_len}.",
            "prompt",
            "context_length_exceeded",
        )
