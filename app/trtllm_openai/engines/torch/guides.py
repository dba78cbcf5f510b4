"""Guided decoding by XGrammar: grammars compiled beside the engine's loop, masks applied inside its batch.

XGrammar releases the interpreter while it compiles, so that a slow grammar delays only the request that
brought it. It is an optional package: without it the engine says that it cannot guide.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import re
from collections.abc import Sequence as Items
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Guide, GuideKind

log = logging.getLogger(__name__)

GUIDES: tuple[GuideKind, ...] = ("json_object", "json_schema", "regex", "grammar", "structural_tag")
CACHE_BYTES = 256 * 2**20
COMPILING_AT_ONCE = 2
MAX_WHITESPACE = 40
"""Between two tokens of JSON: enough for deep indentation, and not a place to get lost in."""


def available() -> bool:
    """Whether XGrammar is installed."""
    return importlib.util.find_spec("xgrammar") is not None


class GuideCompiler:
    """Compiles guides to matchers. The same guide is compiled once, as long as it stays in the cache."""

    def __init__(self, vocabulary: Items[bytes], vocab_size: int, end_ids: Items[int]) -> None:
        """`vocabulary`: each token's bytes by id, none for special ones; `vocab_size`: width of logits."""
        self._threads = ThreadPoolExecutor(COMPILING_AT_ONCE, thread_name_prefix="grammar")
        # Importing takes a second, which neither the start nor the first request should wait for.
        self._compiler = self._threads.submit(_make_compiler, vocabulary, vocab_size, end_ids)

    def compile(self, guide: Guide) -> Future[Any]:
        """A future `GrammarMatcher`; it raises `InvalidRequest` when the guide is not a valid one."""
        return self._threads.submit(self._compile, guide)

    def close(self) -> None:
        """Forget what has not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _compile(self, guide: Guide) -> Any:
        import xgrammar

        compiler = self._compiler.result()
        try:
            return xgrammar.GrammarMatcher(_compiled(compiler, guide))
        except (RuntimeError, ValueError) as error:
            what = guide.kind.replace("_", " ")
            raise InvalidRequest(
                f"This {what} cannot be used: {_reason(error)}", guide.param or None
            ) from None


def constrain(logits: torch.Tensor, sequences: list[Sequence]) -> None:
    """Forbid, in `logits` [rows, vocab], what the guides of guided sequences do not allow next.

    The row of a guide that fails becomes NaN, which ends that sequence alone.
    """
    rows = [row for row, sequence in enumerate(sequences) if sequence.matcher is not None]
    if not rows:
        return
    import xgrammar

    mask = xgrammar.allocate_token_bitmask(len(sequences), logits.shape[-1])
    for row in rows[:]:
        try:
            sequences[row].matcher.fill_next_token_bitmask(mask, row)
        except Exception:
            log.exception("the guide of request %s failed", sequences[row].request.request_id)
            logits[row] = math.nan
            rows.remove(row)
    if not rows:
        return
    xgrammar.apply_token_bitmask_inplace(logits, mask.to(logits.device, non_blocking=True), indices=rows)


def _make_compiler(vocabulary: Items[bytes], vocab_size: int, end_ids: Items[int]) -> Any:
    import xgrammar

    info = xgrammar.TokenizerInfo(
        list(vocabulary), xgrammar.VocabType.RAW, vocab_size=vocab_size, stop_token_ids=list(end_ids)
    )
    return xgrammar.GrammarCompiler(info, max_threads=1, cache_limit_bytes=CACHE_BYTES)


def _compiled(compiler: Any, guide: Guide) -> Any:
    match guide.kind:
        case "json_object":
            return compiler.compile_json_schema('{"type":"object"}', max_whitespace_cnt=MAX_WHITESPACE)
        case "json_schema":
            return compiler.compile_json_schema(guide.text, max_whitespace_cnt=MAX_WHITESPACE)
        case "regex":
            return compiler.compile_regex(guide.text)
        case "grammar":
            return compiler.compile_grammar(guide.text)
        case "structural_tag":
            return compiler.compile_structural_tag(guide.text)


_PLACE_IN_SOURCE = re.compile(r"^\[[\d:]+\] \S+?:\d+: ")


def _reason(error: Exception) -> str:
    """XGrammar's sentence without the place in its own source."""
    return _PLACE_IN_SOURCE.sub("", str(error).strip().split("\n", 1)[0]).strip()
