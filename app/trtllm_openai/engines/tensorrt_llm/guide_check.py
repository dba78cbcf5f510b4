"""Compile guides with XGrammar before their requests reach the executor.

TensorRT-LLM compiles a guide inside its batch loop, and one that XGrammar rejects ends every active request.
The check compiles the same guide with the same calls as `GuidedDecoder::build` (TensorRT-LLM,
cpp/tensorrt_llm/batch_manager/guidedDecoder.cpp) and keeps only whether that succeeded. XGrammar is a pinned
dependency of TensorRT-LLM, so the versions agree.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

from trtllm_openai.engines.tensorrt_llm.guided import guide_text
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Guide

log = logging.getLogger(__name__)
CACHE_BYTES = 256 * 2**20
COMPILE_THREADS = 2


class GuideChecker:
    """Checks guides on `COMPILE_THREADS` threads; XGrammar releases the GIL while it compiles."""

    def __init__(self, vocabulary: Sequence[bytes], vocab_size: int, end_ids: Sequence[int]) -> None:
        """`vocabulary`: bytes of each token by id, empty for special ones; `vocab_size`: width of logits.

        Imports XGrammar, which takes seconds: part of the load, so that no request waits for it.
        """
        self._threads = ThreadPoolExecutor(COMPILE_THREADS, thread_name_prefix="guide-check")
        self._compiler = _make_compiler(vocabulary, vocab_size, end_ids)

    def check(self, guide: Guide) -> Future[None]:
        """Compile `guide` in the pool. The future raises `InvalidRequest` when XGrammar rejects it."""
        return self._threads.submit(self._check, guide)

    def close(self) -> None:
        """Drop the checks that have not started."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _check(self, guide: Guide) -> None:
        try:
            _compile(self._compiler, guide)
        except (RuntimeError, ValueError) as error:
            kind = guide.kind.replace("_", " ")
            message = f"This {kind} cannot be used: {_reason(error)}"
            raise InvalidRequest(message, guide.param or None) from None


def available() -> bool:
    """Whether XGrammar is installed. Logs a warning when it is not: guides then go unchecked."""
    if find_spec("xgrammar") is not None:
        return True
    log.warning(
        "xgrammar is not installed: guides reach TensorRT-LLM unchecked, and one that it cannot compile ends "
        "every active request"
    )
    return False


def _make_compiler(vocabulary: Sequence[bytes], vocab_size: int, end_ids: Sequence[int]) -> Any:
    import xgrammar

    info = xgrammar.TokenizerInfo(
        list(vocabulary), xgrammar.VocabType.RAW, vocab_size=vocab_size, stop_token_ids=list(end_ids)
    )
    return xgrammar.GrammarCompiler(info, max_threads=1, cache_limit_bytes=CACHE_BYTES)


def _compile(compiler: Any, guide: Guide) -> None:
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


def _reason(error: Exception) -> str:
    """The first line of XGrammar's message without the location in XGrammar's source."""
    return _SOURCE_LOCATION.sub("", str(error).strip().split("\n", 1)[0]).strip()
