"""Sampling parameters as the executor takes them, with its traps stepped over.

* Its defaults are greedy, not OpenAI's: temperature and top_p are always said.
* Temperature 0 is said as top_k 1.
* Its seed defaults to one constant for every request: without a seed a random one is sent.
* It knows one end token; further ones are stop words of one token, and `ignore_eos` is the end token -1.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from trtllm_openai.generation import SamplingParams

NO_END_ID = -1
SEED_MASK = 2**64 - 1


@dataclass(frozen=True, slots=True)
class ExecutorSampling:
    """Keyword arguments for `SamplingConfig`, and those of `Request` that go with them."""

    config: dict[str, Any]
    end_id: int
    stop_words: list[list[int]] | None
    bad_words: list[list[int]] | None
    embedding_bias: dict[int, float] | None
    """Token id to bias; the executor takes a float32 tensor of the vocabulary's size."""


def to_executor(
    sampling: SamplingParams, eos_token_ids: tuple[int, ...], prompt_length: int | None
) -> ExecutorSampling:
    """Map every parameter. `Capabilities` has refused before what an engine cannot do.

    The first of `eos_token_ids` becomes the end id, the only one that `min_tokens` suppresses.
    Penalties count generated tokens only: `prompt_length` tokens are ignored. None: this version cannot, and
    counts those of the prompt too.
    """
    config: dict[str, Any] = {}
    if sampling.temperature == 0:
        config["top_k"] = 1
    else:
        config["temperature"] = sampling.temperature
        config["top_p"] = sampling.top_p
        if sampling.top_k:
            config["top_k"] = sampling.top_k
        if sampling.min_p:
            config["min_p"] = sampling.min_p
    config["seed"] = (secrets.randbits(64) if sampling.seed is None else sampling.seed) & SEED_MASK
    if sampling.min_tokens:
        config["min_tokens"] = sampling.min_tokens
    if sampling.repetition_penalty != 1:
        config["repetition_penalty"] = sampling.repetition_penalty
    if sampling.presence_penalty:
        config["presence_penalty"] = sampling.presence_penalty
    if sampling.frequency_penalty:
        config["frequency_penalty"] = sampling.frequency_penalty
    penalties = config.keys() & {"repetition_penalty", "presence_penalty", "frequency_penalty"}
    if penalties and prompt_length is not None:
        config["prompt_ignore_length"] = prompt_length
    ends = () if sampling.ignore_eos else eos_token_ids
    stops = dict.fromkeys((*ends[1:], *sampling.stop_token_ids))
    return ExecutorSampling(
        config=config,
        end_id=ends[0] if ends else NO_END_ID,
        stop_words=[[token] for token in stops] or None,
        bad_words=[list(word) for word in sampling.bad_words] or None,
        embedding_bias=sampling.logit_bias,
    )
