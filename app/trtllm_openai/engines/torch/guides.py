"""Guided decoding by llguidance: guides compiled in threads, token masks applied in the batch.

llguidance (Rust) parses with an Earley parser over a lexer of regex derivatives and compiles lazily: a guide
takes milliseconds to compile and some microseconds for each token mask. It refuses by name each JSON Schema
keyword that it does not enforce. `LIMITS` bound the work of one guide: a guide that exceeds them ends its own
sequence with an error and delays no other one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence as Items
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trtllm_openai.engines.torch.json_schema import SchemaError, find_keyword, prepare
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.engines.torch.structural_tag import regex_terminal, structural_tag_grammar
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Guide, GuideKind

if TYPE_CHECKING:
    import llguidance
log = logging.getLogger(__name__)

GUIDES: tuple[GuideKind, ...] = ("json_object", "json_schema", "regex", "grammar", "structural_tag")
MAX_CONCURRENT_COMPILATIONS = 2
WHITESPACE = r"[\x20\x0A\x0D\x09]{0,40}"
"""Between two tokens of JSON: enough for deep indentation, but no endless run of blanks."""
LIMITS: dict[str, Any] = {
    "max_grammar_size": 100_000,  # symbols; also bounds the time to compile
    "initial_lexer_fuel": 500_000,  # some 10 ms of building regular expressions
    "step_lexer_fuel": 100_000,  # some 7 ms of lexing for one token mask
    "step_max_items": 20_000,  # Earley items: 1 ms for one token mask
    "max_items_in_row": 1_000,
    "max_lexer_states": 50_000,  # 1 to 2 kB each
}


class GuideCompiler:
    """Compiles guides to matchers, `MAX_CONCURRENT_COMPILATIONS` at once, in threads without the GIL."""

    def __init__(self, vocabulary: Items[bytes], vocab_size: int, end_ids: Items[int]) -> None:
        """`vocabulary`: bytes of each token by id, empty for special ones; `vocab_size`: width of logits."""
        self._end_ids = tuple(end_ids)
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT_COMPILATIONS, thread_name_prefix="grammar")
        # Reading the vocabulary takes half a second, which should not delay the start.
        self._tokenizer = self._threads.submit(_make_tokenizer, vocabulary, vocab_size, end_ids)

    def compile(self, guide: Guide) -> Future[GuideMatcher]:
        """Returns a future matcher. The future raises `InvalidRequest` for a guide that cannot be used."""
        return self._threads.submit(self._compile, guide)

    def close(self) -> None:
        """Drop what is queued; do not wait for what is being compiled."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _compile(self, guide: Guide) -> GuideMatcher:
        import llguidance

        tokenizer = self._tokenizer.result()
        limits = llguidance.LLParserLimits(**LIMITS)
        try:
            matcher = llguidance.LLMatcher(tokenizer, _grammar(guide), log_level=0, limits=limits)
        except SchemaError as error:
            raise InvalidRequest(
                f"'{guide.param}{error.path}' cannot be used: {error}.", guide.param + error.path
            ) from None
        except ValueError as error:
            raise _refusal(guide, str(error)) from None
        if matcher.is_error():
            raise _refusal(guide, matcher.get_error())
        found = GuideMatcher(matcher, self._end_ids)
        # The first mask shows what no text can satisfy (`root ::= root`), and warms the lexer's cache.
        found.fill_mask(np.zeros(-(-tokenizer.vocab_size // 32), dtype=np.int32))
        if found.error:
            raise _refusal(guide, matcher.get_error())
        return found


class GuideMatcher:
    """The state of one guided sequence."""

    def __init__(self, matcher: llguidance.LLMatcher, end_ids: tuple[int, ...]) -> None:
        """`end_ids`: the model's end tokens, of which the matcher only knows the first."""
        self._matcher = matcher
        self._end_ids = end_ids
        self.error = ""
        """Why the guide cannot go on; the sequence ends with an error then."""

    def fill_mask(self, mask: np.ndarray[tuple[int], np.dtype[np.int32]]) -> None:
        """Write one bit per token that may come next into `mask` [vocab / 32]; no bit after an error."""
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._check():
            mask.fill(0)
            return
        bits = mask.view(np.uint32)
        first, *others = self._end_ids
        if bits[first // 32] >> (first % 32) & 1:
            for token in others:
                bits[token // 32] |= np.uint32(1 << (token % 32))

    def accept_token(self, token: int) -> bool:
        """Advance by a sampled token. Returns False after an error."""
        if token in self._end_ids:
            token = self._end_ids[0]
        self._matcher.consume_token(token)
        return not self._check()

    def is_terminated(self) -> bool:
        """Whether the text is complete and nothing can follow."""
        return self._matcher.is_stopped()

    def _check(self) -> bool:
        if not self.error and self._matcher.is_error():
            self.error = _reason(self._matcher.get_error())
        return bool(self.error)


def constrain(logits: torch.Tensor, sequences: list[Sequence]) -> None:
    """Set the logits [rows, vocab] of tokens that a row's guide does not allow next to -inf, in place.

    A row whose guide has failed keeps no finite logit, which ends that sequence alone.
    """
    rows = [row for row, sequence in enumerate(sequences) if sequence.matcher is not None]
    if not rows:
        return
    vocab = logits.shape[-1]
    masks = np.empty((len(rows), -(-vocab // 32)), dtype=np.int32)
    for mask, row in zip(masks, rows, strict=True):
        try:
            sequences[row].matcher.fill_mask(mask)
        except Exception:
            log.exception("the guide of request %s failed", sequences[row].request.request_id)
            mask.fill(0)
    bits = np.unpackbits(masks.view(np.uint8), axis=1, count=vocab, bitorder="little")
    forbidden = torch.from_numpy(bits == 0)
    if logits.is_cuda:
        forbidden = forbidden.pin_memory().to(logits.device, non_blocking=True)
    for index, row in enumerate(rows):
        logits[row].masked_fill_(forbidden[index], -torch.inf)


class _Vocabulary:
    """The vocabulary as llguidance's `TokenizerWrapper` reads it."""

    bos_token_id = None

    def __init__(self, vocabulary: Items[bytes], vocab_size: int, end_ids: Items[int]) -> None:
        self.eos_token_id = end_ids[0]
        missing = [b""] * (vocab_size - len(vocabulary))
        self.tokens = [*vocabulary, *missing]
        self.special_token_ids = [token for token, text in enumerate(self.tokens) if not text]
        self._single = {text[0]: token for token, text in enumerate(self.tokens) if len(text) == 1}

    def __call__(self, text: bytes) -> list[int]:
        """One token for each byte: llguidance only needs some encoding here, since nothing is forced."""
        return [self._single[byte] for byte in text if byte in self._single]


def _make_tokenizer(vocabulary: Items[bytes], vocab_size: int, end_ids: Items[int]) -> llguidance.LLTokenizer:
    import llguidance

    wrapper = llguidance.TokenizerWrapper(_Vocabulary(vocabulary, vocab_size, end_ids))
    return llguidance.LLTokenizer(wrapper, n_vocab=vocab_size, eos_token=end_ids[0])


def _grammar(guide: Guide) -> str:
    """The guide in llguidance's own form. Raises `ValueError` with the reason if it has none."""
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
            return structural_tag_grammar(guide.text, gbnf_grammar)


def _json_grammar(schema: str) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(prepare(schema), overrides={"whitespace_pattern": WHITESPACE})


def gbnf_grammar(text: str) -> str:
    """A GBNF grammar (rule `root`) as Lark. Raises `ValueError`."""
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        lark: str = gbnf_to_lark(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except Exception as error:  # the converter raises plain exceptions for syntax errors
        raise ValueError(str(error)) from None
    return lark


_UNIMPLEMENTED = re.compile(r'^Unimplemented keys: \["([^"]+)"')


def _refusal(guide: Guide, reason: str) -> InvalidRequest:
    keyword = _UNIMPLEMENTED.match(reason)
    if keyword is not None and guide.kind == "json_schema":
        path = find_keyword(guide.text, keyword[1]) or ""
        message = f"'{guide.param}{path}' cannot be used: {keyword[1]} cannot be enforced."
        return InvalidRequest(message, guide.param + path or None, "unsupported_parameter")
    kind = guide.kind.replace("_", " ")
    return InvalidRequest(f"This {kind} cannot be used: {_reason(reason)}.", guide.param or None)


_COMPLEXITY = re.compile(r"too (?:many|big|large|complex)|limit|fuel", re.IGNORECASE)


def _reason(error: str) -> str:
    """llguidance's sentence for the client."""
    if "NoExtension" in error:
        return "no text satisfies it"
    lines = [line.strip() for line in error.splitlines() if line.strip() and line.strip() != "<non-verbose/>"]
    reason = next(
        (line for line in lines if line.startswith("error: ")), lines[0] if lines else "unknown error"
    )
    if _COMPLEXITY.search(reason):
        return f"it is too complex ({reason.rstrip('.')})"
    return reason.removeprefix("error: ").rstrip(".")
