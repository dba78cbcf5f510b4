"""Piece by piece the ids are those of the whole text, and what is remembered is bounded and apart."""

import tracemalloc
from collections.abc import Callable

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from trtllm_openai.text.pieces import PieceEncoder
from trtllm_openai.text.tokenizer import Tokenizer

Change = Callable[[tokenizers.Tokenizer], object]


@pytest.fixture(scope="session")
def backend(demo_tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    return demo_tokenizer._backend


@pytest.fixture(scope="session")
def encoder(backend: tokenizers.Tokenizer) -> PieceEncoder:
    found = PieceEncoder.of(backend)
    assert found is not None
    return found


SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<|im_", "start|>", "<|"]
WORDS = ["user", " the", "대한민국", "🙂", "e\u0301", "'s", "12345", "▁"]
SPACES = [" ", "  ", "\n", "\n\n", "\t", "\u00a0"]
FRAGMENTS = st.sampled_from([*SPECIAL, *WORDS, *SPACES])


@given(st.lists(FRAGMENTS | st.text(max_size=3), max_size=12).map("".join))
def test_ids_are_those_of_the_whole_text(
    encoder: PieceEncoder, backend: tokenizers.Tokenizer, text: str
) -> None:
    for _ in range(2):  # anew, and as it is remembered
        assert encoder.encode(text) == backend.encode(text, add_special_tokens=False).ids


def test_of_tokens_that_begin_alike_the_longest_counts() -> None:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.add_special_tokens(["<a", "<a>", "<a>b"])
    encoder = PieceEncoder.of(backend)
    assert encoder is not None
    for text in ("<a>b", "<a>", "<a<a>", "<a>bb"):
        assert encoder.encode(text) == backend.encode(text).ids


def test_a_beginning_put_before_each_piece() -> None:
    """As the tokenizers do that came from SentencePiece."""
    backend = tokenizers.Tokenizer(models.BPE({"▁": 0, "a": 1, "▁a": 2}, [("▁", "a")]))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.add_special_tokens(["<s>"])
    encoder = PieceEncoder.of(backend)
    assert encoder is not None
    for text in ("a<s>a", " a<s> a a<s><s>a"):
        assert encoder.encode(text) == backend.encode(text).ids


def first_is_different(backend: tokenizers.Tokenizer) -> None:
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")


def nested(backend: tokenizers.Tokenizer) -> None:
    inner = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="first")])
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), inner])


def strips(backend: tokenizers.Tokenizer) -> None:
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])


def other_model(backend: tokenizers.Tokenizer) -> None:
    backend.model = models.Unigram([("a", 0.0)], unk_id=0)


@pytest.mark.parametrize("change", [first_is_different, nested, strips, other_model])
def test_what_depends_on_the_surroundings_is_encoded_whole(change: Change) -> None:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.add_special_tokens(["<s>"])
    assert PieceEncoder.of(backend) is not None
    change(backend)
    assert PieceEncoder.of(backend) is None


def test_nothing_that_splits() -> None:
    assert PieceEncoder.of(tokenizers.Tokenizer(models.BPE())) is None


class Counting:
    """In a tokenizer's place: says what it was asked."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self.asked: list[str] = []

    def encode_batch_fast(self, texts: list[str], **options: bool) -> list[tokenizers.Encoding]:
        self.asked += texts
        return self._backend.encode_batch_fast(texts, **options)


def counting(backend: tokenizers.Tokenizer, budget: int) -> tuple[PieceEncoder, list[str]]:
    counted = Counting(backend)
    return PieceEncoder(counted, ["|"], budget), counted.asked  # type: ignore[arg-type]


def test_only_what_is_new_is_encoded(backend: tokenizers.Tokenizer) -> None:
    encoder, asked = counting(backend, 100_000)
    encoder.encode("a|b")
    encoder.encode("a|b|c")
    assert asked == ["a", "|", "b", "c"]


def test_least_recently_used_is_evicted_first(backend: tokenizers.Tokenizer) -> None:
    encoder, asked = counting(backend, 100_000)
    encoder.encode("first")
    encoder.encode("second")
    number = 0
    while "second" in encoder._known:
        number += 1
        encoder.encode(f"{number}|first")
    asked.clear()
    encoder.encode("first|second")
    assert asked == ["second"]


def test_memory_is_bounded(backend: tokenizers.Tokenizer) -> None:
    encoder = PieceEncoder(backend, ["|"], 100_000)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(10_000):
        for _ in range(2):  # the second text is equal, but another
            encoder.encode(f"number {number}|수 {number}", salt=str(number % 3) if number % 2 else "")
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 50_000 < grown < 150_000
    assert encoder._size == sum(known.size for known in encoder._known.values()) <= 100_000
    assert len(encoder._known) > 100
    encoder.encode("x" * 2_000_000)
    assert encoder._size <= 100_000


def test_a_salt_finds_only_its_own(backend: tokenizers.Tokenizer) -> None:
    encoder, asked = counting(backend, 100_000)
    for salt in ("", "a", "b", "a"):
        encoder.encode("secret", salt)
    assert asked == ["secret"] * 3
