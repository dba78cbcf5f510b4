"""Guided decoding with llguidance: guides to matchers, matchers to token masks applied per batch.

llguidance (Rust) runs an Earley parser over a lexer of regex derivatives and compiles lazily: a guide takes
milliseconds to compile and microseconds per token mask. It rejects each JSON Schema keyword that it does not
enforce, by name. `LIMITS` and `max_mask_ms` bound the work of one guide in the step: a guide that exceeds
them fails only its own sequence. What bounds compilation is in `guide_trial`. Importing this module does not
import torch, which the process of trials does without.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Sequence as Items
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from trtllm_openai.engines.torch.json_schema import SchemaError, find_keyword, prepare, whitespace_options
from trtllm_openai.engines.torch.structural_tag import (
    after_thinking,
    parts,
    regex_terminal,
    structural_tag_grammar,
)
from trtllm_openai.engines.torch.thinking_budget import ThinkingBudget
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Guide, GuideKind, SamplingParams

if TYPE_CHECKING:
    import llguidance

GUIDES: tuple[GuideKind, ...] = ("json_object", "json_schema", "regex", "grammar", "structural_tag")
TOO_COMPLEX, UNSATISFIABLE = "guide_too_complex", "guide_unsatisfiable"
"""Error codes, and reasons in metrics."""
BURST_MS = 100.0
"""CPU milliseconds for masks that a guide may take beyond its average."""
LIMITS: dict[str, Any] = {
    "max_grammar_size": 100_000,  # symbols; also bounds compile time
    "initial_lexer_fuel": 500_000,  # about 10 ms of regex construction
    "step_lexer_fuel": 100_000,  # about 7 ms of lexing per token mask
    "step_max_items": 20_000,  # Earley items: about 1 ms per token mask
    "max_items_in_row": 1_000,
    "max_lexer_states": 50_000,  # 1 to 2 kB each
}


class GuideLimits(msgspec.Struct, frozen=True):
    """Bounds on the work of one guide; see `config.GuideSettings`."""

    compile_timeout: float
    processes: int
    max_memory_mb: int
    max_mask_ms: float


def try_guide(
    tokenizer: llguidance.LLTokenizer, guide: Guide, end_ids: tuple[int, ...], max_mask_ms: float
) -> None:
    """Compile a guide for the first time. Raises `InvalidRequest` if it cannot be used."""
    if guide.thinking is not None and not (guide.thinking.opened or guide.thinking.within):
        # Alone as well: beside thinking that may begin, a text that nothing satisfies would go unnoticed.
        compile_guide(tokenizer, msgspec.structs.replace(guide, thinking=None), end_ids, max_mask_ms)
    compile_guide(tokenizer, guide, end_ids, max_mask_ms)


def compile_guide(
    tokenizer: llguidance.LLTokenizer, guide: Guide, end_ids: tuple[int, ...], max_mask_ms: float
) -> GuideMatcher:
    """Compile a guide in this thread. Raises `InvalidRequest` if it cannot be used."""
    import llguidance

    limits = llguidance.LLParserLimits(**LIMITS)
    try:
        matcher = llguidance.LLMatcher(tokenizer, _grammar(guide), log_level=0, limits=limits)
    except SchemaError as error:
        param = guide.param_at(error.path)
        raise InvalidRequest(f"'{param}' cannot be used: {error}.", param) from None
    except ValueError as error:
        raise _refusal(guide, str(error)) from None
    budget = None
    if guide.thinking is not None and guide.thinking.budget is not None:
        budget = ThinkingBudget(guide.thinking, guide.special, lambda token: tokenizer.decode_bytes([token]))
    found = GuideMatcher(matcher, end_ids, max_mask_ms, budget, guide=guide, text_bits=text_bits(tokenizer))
    if not matcher.is_error():
        # The first mask reveals unsatisfiable grammars (`root ::= root`) and warms the lexer cache.
        found.fill_mask(np.zeros(-(-tokenizer.vocab_size // 32), dtype=np.int32))
    if matcher.is_error() or found.error:
        if guide.kind == "structural_tag":
            for path, kind, text in parts(guide.text):  # one that fails alone is named
                compile_guide(tokenizer, Guide(kind, text, guide.param_at(path)), end_ids, max_mask_ms)
        raise _refusal(guide, matcher.get_error() or found.error)
    return found


class GuideMatcher:
    """The parser state of one guided sequence."""

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        end_ids: tuple[int, ...],
        max_mask_ms: float,
        budget: ThinkingBudget | None = None,
        *,
        guide: Guide,
        text_bits: np.ndarray[tuple[int], np.dtype[np.uint32]],
    ) -> None:
        """`end_ids`: the model's end-of-sequence tokens; the matcher itself knows only the first.

        `max_mask_ms`: CPU milliseconds for a token, on average, beyond the first `BURST_MS`. `text_bits`: a
        bit for each token that is not special.
        """
        self._budget = budget
        self._endless = guide.endless
        self._marks = tuple(guide.special.values())
        self._text_bits = text_bits
        self._past_end = False
        self._matcher = matcher
        self._end_ids = end_ids
        self._max_mask_ms = max_mask_ms
        self._allowed_ms = BURST_MS
        self.seconds = 0.0
        """CPU seconds that masks and tokens took."""
        self.draft_seconds = 0.0
        """CPU seconds that copies of it took for drafts. They are not held against the guide."""
        self.error = ""
        """Reason the guide failed, or empty. A failed guide ends its sequence with an error."""

    def fill_mask(self, mask: np.ndarray[tuple[int], np.dtype[np.int32]]) -> None:
        """Fill `mask` [vocab / 32] with one bit per allowed next token; all zero after an error."""
        began = time.thread_time()
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        self._allowed_ms += self._max_mask_ms
        self._spend(began)
        if self._check():
            mask.fill(0)
            return
        bits = mask.view(np.uint32)
        first, *others = self._end_ids
        if bits[first // 32] >> (first % 32) & 1:
            for token in others:
                bits[token // 32] |= np.uint32(1 << (token % 32))
        if self._marks:
            self._check_special(bits)
        due = self._budget.due if self._budget is not None else None
        # In the middle of a character the end tag is not allowed yet.
        if due is not None and bits[due // 32] >> (due % 32) & 1:
            bits.fill(0)
            bits[due // 32] = np.uint32(1 << (due % 32))

    def _check_special(self, bits: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> None:
        """Correct special tokens' bits: where one is allowed beside text, llguidance's mask has them all."""
        bits &= self._text_bits
        for token in self._marks:
            if self._matcher.validate_tokens([token]):
                bits[token // 32] |= np.uint32(1 << (token % 32))
        if self._matcher.is_accepting():
            for token in self._end_ids:
                bits[token // 32] |= np.uint32(1 << (token % 32))

    def apply(self, sampling: SamplingParams) -> None:
        """Allow stop tokens where the text may end; with `ignore_eos` an endless text goes on after EOS."""
        self._end_ids = (*self._end_ids, *sampling.stop_token_ids)
        self._past_end = sampling.ignore_eos and self._endless

    def accept_token(self, token: int) -> bool:
        """Advance by a sampled token. Returns False after an error."""
        if self._budget is not None:
            self._budget.count(token)
        if token in self._end_ids:
            if self._past_end:
                return True
            token = self._end_ids[0]
        began = time.thread_time()
        self._matcher.consume_token(token)
        self._spend(began)
        return not self._check()

    def fresh(self) -> GuideMatcher:
        """A copy for another sequence, of one that has not read any text and has no rules of its own."""
        other = self.ahead()
        other.seconds, other._allowed_ms = 0.0, BURST_MS
        return other

    def ahead(self) -> GuideMatcher:
        """A copy, to go ahead with a draft. What it does and spends does not change this one."""
        other = copy.copy(self)
        other._matcher = self._matcher.deep_copy()
        other._budget = copy.copy(self._budget)
        return other

    def agrees(self, draft: list[int]) -> int:
        """How many tokens of a draft it would accept at least, without accepting them."""
        try:
            count: int = self._matcher.validate_tokens(draft)
        except Exception:  # in a failed state
            return 0
        return count

    @property
    def too_complex(self) -> bool:
        """Whether it failed at a bound on its work."""
        return self.error.startswith(_COMPLEX)

    def is_terminated(self) -> bool:
        """Whether the text is complete and no token can follow."""
        return self._matcher.is_stopped()

    def _spend(self, began: float) -> None:
        self.seconds += time.thread_time() - began
        if not self.error and self.seconds * 1000 > self._allowed_ms:
            self.error = f"{_COMPLEX} (more than {self._max_mask_ms:g} ms for a token)"

    def _check(self) -> bool:
        if not self.error and self._matcher.is_error():
            self.error = _reason(self._matcher.get_error())
        return bool(self.error)


class _Vocabulary:
    """Adapter that presents the vocabulary to llguidance's `TokenizerWrapper`."""

    bos_token_id = None

    def __init__(self, vocabulary: Items[bytes], vocab_size: int, end_ids: Items[int]) -> None:
        self.eos_token_id = end_ids[0]
        missing = [b""] * (vocab_size - len(vocabulary))
        self.tokens = [*vocabulary, *missing]
        self.special_token_ids = [token for token, text in enumerate(self.tokens) if not text]
        self._single = {text[0]: token for token, text in enumerate(self.tokens) if len(text) == 1}

    def __call__(self, text: bytes) -> list[int]:
        """Encode one token per byte. Any valid encoding serves, since forced tokens are not used."""
        return [self._single[byte] for byte in text if byte in self._single]


def make_tokenizer(vocabulary: Items[bytes], vocab_size: int, end_ids: Items[int]) -> llguidance.LLTokenizer:
    """llguidance's form of the vocabulary, in about half a second. See `GuideCompiler` for the parameters."""
    import llguidance

    wrapper = llguidance.TokenizerWrapper(_Vocabulary(vocabulary, vocab_size, end_ids))
    tokenizer = llguidance.LLTokenizer(wrapper, n_vocab=vocab_size, eos_token=end_ids[0])
    text_bits(tokenizer)
    return tokenizer


@lru_cache(2)
def text_bits(tokenizer: llguidance.LLTokenizer) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    """A bit for each token that has a text: special ones have none."""
    known = np.array([bool(tokenizer.decode_bytes([token])) for token in range(tokenizer.vocab_size)])
    packed = np.zeros(-(-tokenizer.vocab_size // 32) * 32, dtype=bool)
    packed[: len(known)] = known
    return np.packbits(packed, bitorder="little").view(np.uint32)


def _grammar(guide: Guide) -> str:
    """Convert a guide to a llguidance grammar. Raises `ValueError` with the reason if it cannot."""
    grammar = _form(guide)
    if guide.thinking is None or guide.thinking.within:
        return grammar
    return after_thinking(grammar, guide.thinking, guide.special)


def _form(guide: Guide) -> str:
    from llguidance import LLMatcher

    match guide.kind:
        case "json_object":
            return _json_grammar('{"type":"object"}')
        case "json_schema":
            return _json_grammar(guide.text)
        case "regex":
            return LLMatcher.grammar_from_lark(f"start: {regex_terminal(guide.text)}")
        case "grammar":
            return LLMatcher.grammar_from_lark(gbnf_grammar(guide.text))
        case "structural_tag":
            return structural_tag_grammar(guide, gbnf_grammar)


def _json_grammar(schema: str) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(prepare(schema), overrides=whitespace_options())


def gbnf_grammar(text: str) -> str:
    """Convert a GBNF grammar (start rule `root`) to Lark. Raises `ValueError`."""
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        lark: str = gbnf_to_lark(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # the converter raises plain exceptions for syntax errors
        raise ValueError(str(error)) from None
    return lark


_UNIMPLEMENTED = re.compile(r'^Unimplemented keys: \["([^"]+)"')


def _refusal(guide: Guide, reason: str) -> InvalidRequest:
    keyword = _UNIMPLEMENTED.match(reason)
    if keyword is not None and guide.kind == "json_schema":
        param = guide.param_at(find_keyword(guide.text, keyword[1]) or "")
        message = f"'{param}' cannot be used: {keyword[1]} cannot be enforced."
        return InvalidRequest(message, param or None, "unsupported_parameter")
    phrase = _reason(reason)
    return InvalidRequest(f"{guide.called} cannot be used: {phrase}.", guide.param or None, _code(phrase))


def _code(phrase: str) -> str:
    if phrase.startswith(_COMPLEX):
        return TOO_COMPLEX
    return UNSATISFIABLE if phrase == _NO_TEXT else "invalid_value"


_COMPLEX, _NO_TEXT = "it is too complex", "no text satisfies it"
_COMPLEXITY = re.compile(r"too (?:many|big|large|complex)|limit|fuel", re.IGNORECASE)


def _reason(error: str) -> str:
    """Reduce a llguidance error to one phrase for the client."""
    if "NoExtension" in error:
        return _NO_TEXT
    lines = [line.strip() for line in error.splitlines() if line.strip() and line.strip() != "<non-verbose/>"]
    reason = next(
        (line for line in lines if line.startswith("error: ")), lines[0] if lines else "unknown error"
    )
    if _COMPLEXITY.search(reason):
        return f"{_COMPLEX} ({reason.rstrip('.')})"
    return reason.removeprefix("error: ").rstrip(".")
