"""The table of sampling parameters: `SamplingParams`, with each field's range and description as metadata.

A field annotated with a `Parameter` is a request parameter of the same name. From it follow the pydantic
fields of the request models, the check against the engine's capabilities, the table in docs/api.md and the
struct that the engines receive. A new parameter is added here and in the engines that implement it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

LOWEST_TEMPERATURE = 1e-4
"""Lower temperatures are greedy. Logits divided by this one still fit float32 by a wide margin."""
LOWEST_TOP_P = 1e-6
"""Lower values are raised to this one. The likeliest of up to a million tokens has a probability above it, so
both keep that token alone; a smaller value could become 0 in float32 and keep none."""
INT32_MAX = 2**31 - 1
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class Parameter:
    """Metadata of a struct field that clients set. Its name, type and default are the field's own.

    `minimum`, `maximum` (inclusive) and `above` (exclusive) bound the value, or every element of a list or
    every value of a map. `empty`: whether a list may be empty, which is the default. `capability` names the
    attribute of `Capabilities` that any value but the default needs. `token_ids` says that the elements or
    keys are token ids of the model's vocabulary. `convert` maps the wire's value to the field's; None means
    the default.
    """

    description: str
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    empty: bool = True
    capability: str | None = None
    token_ids: bool = False
    convert: Callable[[Any], Any] | None = None


def _temperature(value: float) -> float:
    return value if value >= LOWEST_TEMPERATURE else 0.0


def _top_p(value: float) -> float:
    return max(value, LOWEST_TOP_P)


def _top_k(value: int) -> int:
    return max(value, 0)


def _seed(value: int) -> int | None:
    return None if value == -1 else value


def _logit_bias(value: dict[str, float]) -> dict[int, float] | None:
    return {int(token): bias for token, bias in value.items()} or None


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the next token is chosen and when the sequence ends.

    `max_tokens` counts generated tokens, including the end token; 0 computes the prompt only. `logprobs` None
    means none, k >= 0 the chosen token and k alternatives; `prompt_logprobs` means the same for the prompt's
    tokens. Both have a different form on every endpoint and are derived there. `bad_words` are texts on the
    wire and token ids here: the API tokenizes them (`api.bad_words`).
    """

    max_tokens: Annotated[
        int,
        Parameter(
            "Tokens to generate at most. Default: 16 for completions, else the rest of the context.", 0
        ),
    ]
    temperature: Annotated[
        float,
        Parameter(
            f"Divides the logits. 0 is greedy, as is anything below {LOWEST_TEMPERATURE}.",
            0,
            2,
            convert=_temperature,
        ),
    ] = 1.0
    top_p: Annotated[
        float,
        Parameter(
            "Keep the likeliest tokens whose probabilities add up to this. 1 keeps all.",
            maximum=1,
            above=0,
            convert=_top_p,
        ),
    ] = 1.0
    top_k: Annotated[
        int,
        Parameter(
            "Keep this many of the likeliest tokens. 0 and -1 keep all.", -1, INT32_MAX, convert=_top_k
        ),
    ] = 0
    min_p: Annotated[
        float,
        Parameter("Keep tokens at least this likely relative to the likeliest.", 0, 1, capability="min_p"),
    ] = 0.0
    seed: Annotated[
        int | None,
        Parameter(
            "Same seed and request, same text. -1 is a random seed, as is null.",
            INT64_MIN,
            INT64_MAX,
            capability="seed",
            convert=_seed,
        ),
    ] = None
    presence_penalty: Annotated[
        float,
        Parameter("Subtracted from the logits of generated tokens.", -2, 2, capability="penalties"),
    ] = 0.0
    frequency_penalty: Annotated[
        float,
        Parameter("Subtracted once for every time the token was generated.", -2, 2, capability="penalties"),
    ] = 0.0
    repetition_penalty: Annotated[
        float,
        Parameter(
            "Divides positive logits, and multiplies negative ones, of tokens in the prompt and the answer.",
            0.01,
            100,
            capability="penalties",
        ),
    ] = 1.0
    logit_bias: Annotated[
        dict[int, float] | None,
        Parameter(
            "Token id to a number added to its logit.",
            -100,
            100,
            capability="logit_bias",
            token_ids=True,
            convert=_logit_bias,
        ),
    ] = None
    min_tokens: Annotated[
        int,
        Parameter("No EOS and no stop token before this many tokens.", 0, capability="min_tokens"),
    ] = 0
    stop_token_ids: Annotated[
        tuple[int, ...],
        Parameter("Token ids that end the answer, beside EOS.", 0, token_ids=True, convert=tuple),
    ] = ()
    ignore_eos: Annotated[bool, Parameter("Generate on after EOS.")] = False
    allowed_token_ids: Annotated[
        tuple[int, ...],
        Parameter(
            "Generate these tokens only. Without EOS among them it does not end the answer.",
            0,
            empty=False,
            capability="allowed_token_ids",
            token_ids=True,
            convert=tuple,
        ),
    ] = ()
    bad_words: Annotated[
        tuple[tuple[int, ...], ...],
        Parameter(
            "Texts whose tokens, with or without a space before them, are not generated in a row.",
            capability="bad_words",
        ),
    ] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
