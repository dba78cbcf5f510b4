"""Compiles guides with XGrammar and the calls of TensorRT-LLM, in the forks of `processes.fork_server`.

XGrammar's compiler has no bounds: a short guide can take hours or all memory, and nothing ends it but the
end of its process. XGrammar and the vocabulary are loaded once; a fork shares them.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from trtllm_openai.engines.tensorrt_llm.guided import guide_text
from trtllm_openai.generation import Guide
from trtllm_openai.processes.fork_server import Work

MAX_REASON_BYTES = 2000
ACCEPTED = b""


class Setup(msgspec.Struct, array_like=True):
    """`vocabulary`: bytes of each token by id, empty for special ones; `vocab_size`: width of logits."""

    vocabulary: list[bytes]
    vocab_size: int
    end_ids: list[int]


encode = msgspec.msgpack.Encoder().encode
_decode_setup = msgspec.msgpack.Decoder(Setup).decode
_decode_guide = msgspec.msgpack.Decoder(Guide).decode


def load(setup: bytes) -> Work:
    """The work of a fork: from an encoded guide to a `verdict`."""
    compiler = make_compiler(_decode_setup(setup))
    return lambda body: verdict(compiler, _decode_guide(body))


def verdict(compiler: Any, guide: Guide) -> bytes:
    """`ACCEPTED`, or why XGrammar rejects the guide. Raises `MemoryError`."""
    try:
        compile_guide(compiler, guide)
    except (RuntimeError, ValueError) as error:
        if "bad_alloc" in str(error):
            raise MemoryError from None
        return reason(error).encode()[:MAX_REASON_BYTES] or b"XGrammar rejects it"
    return ACCEPTED


def make_compiler(setup: Setup) -> Any:
    """XGrammar's compiler for the vocabulary. Imports XGrammar, which takes seconds."""
    import xgrammar

    info = xgrammar.TokenizerInfo(
        setup.vocabulary, xgrammar.VocabType.RAW, vocab_size=setup.vocab_size, stop_token_ids=setup.end_ids
    )
    return xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)


def compile_guide(compiler: Any, guide: Guide) -> None:
    """With the calls of TensorRT-LLM's `GuidedDecoder::build`. Raises what XGrammar raises."""
    text = guide_text(guide)
    match guide.kind:
        case "json_object" | "json_schema":
            compiler.compile_json_schema(text)
        case "regex":
            compiler.compile_regex(text)
        case "grammar":
            compiler.compile_grammar(text)
        case "structural_tag":
            compiler.compile_structural_tag(text)


_SOURCE_LOCATION = re.compile(r"^\[[\d:]+\] \S+?:\d+: ")


def reason(error: Exception) -> str:
    """The first line of XGrammar's message without the location in XGrammar's source."""
    return _SOURCE_LOCATION.sub("", str(error).strip().split("\n", 1)[0]).strip()
