"""Guides on trial: each is compiled in a fork of `processes.fork_server` first.

llguidance bounds most of its work, but not all: some guides compile for minutes, take all memory or overflow
the stack, which would end the engine's process. A fork can be ended.
"""

from __future__ import annotations

import msgspec

from trtllm_openai.engines.torch.guides import TOO_COMPLEX, GuideLimits, make_tokenizer, try_guide
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Guide
from trtllm_openai.processes.fork_server import Bounds, Outcome, Work

MAX_MESSAGE = 2000


class Setup(msgspec.Struct, array_like=True):
    """See `GuideCompiler`."""

    vocabulary: list[bytes]
    vocab_size: int
    end_ids: tuple[int, ...]
    max_mask_ms: float


class Verdict(msgspec.Struct, array_like=True):
    """`refusal`: the message of an `InvalidRequest`, with `param` and `code`; empty if the guide compiles."""

    refusal: str = ""
    param: str | None = None
    code: str = "invalid_value"


encode = msgspec.msgpack.Encoder().encode
_decode_setup = msgspec.msgpack.Decoder(Setup).decode
_decode_guide = msgspec.msgpack.Decoder(Guide).decode
_decode_verdict = msgspec.msgpack.Decoder(Verdict).decode


def bounds(limits: GuideLimits) -> Bounds:
    """The bounds of one trial."""
    return Bounds(limits.compile_timeout, limits.max_memory_mb << 20, limits.processes)


def load(setup: bytes) -> Work:
    """The work of a fork: from an encoded guide to an encoded `Verdict`. Imports no torch."""
    given = _decode_setup(setup)
    tokenizer = make_tokenizer(given.vocabulary, given.vocab_size, given.end_ids)

    def work(body: bytes) -> bytes:
        try:
            try_guide(tokenizer, _decode_guide(body), given.end_ids, given.max_mask_ms)
        except InvalidRequest as error:
            param = error.param and error.param[:MAX_MESSAGE]
            return encode(Verdict(str(error)[:MAX_MESSAGE], param, error.code))
        return encode(Verdict())

    return work


def verdict(guide: Guide, outcome: Outcome, limits: GuideLimits) -> Verdict:
    """The verdict on a guide, by the outcome of its trial."""
    if not outcome.ended:
        return _decode_verdict(outcome.answer)
    late = outcome.ended == "time"
    why = f"more than {limits.compile_timeout:g} s" if late else "too much memory or nesting"
    message = f"{guide.called} cannot be used: it is too complex (it needs {why})."
    return Verdict(message, guide.param or None, TOO_COMPLEX)
