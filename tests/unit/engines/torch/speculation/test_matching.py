"""Matches and what follows them, against a search token by token."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trtllm_openai.engines.torch.speculation.matching import (
    CANDIDATES,
    LONGEST,
    SEPARATOR,
    SHORTEST,
    Match,
    TokenBuffer,
    Tokens,
    longest_match,
)

FEW = st.lists(st.integers(0, 3), max_size=60)
"""Few different tokens, so that texts repeat."""


def array(tokens: list[int]) -> Tokens:
    return np.array(tokens, np.int32)


def by_hand(text: list[int], ending: list[int], longest: int) -> tuple[int, list[int]] | None:
    """Length and following positions, latest first, of the occurrences that agree longest."""
    found = []
    for end in range(1, len(text) - 1):  # it ends an occurrence, after which there is a token
        length = 0
        while (
            length < min(longest, len(ending), end + 1)
            and text[end - length] == ending[len(ending) - 1 - length]
        ):
            length += 1
        if length >= SHORTEST:
            found.append((end, length))
    found = found[-CANDIDATES:]
    if not found:
        return None
    best = max(length for _, length in found)
    return best, [end + 1 for end, length in reversed(found) if length == best]


@given(FEW, FEW, st.sampled_from([SHORTEST, 4, LONGEST]), st.booleans())
def test_longest_match(text: list[int], ending: list[int], longest: int, own: bool) -> None:
    if own:
        ending = text
    found = longest_match(array(text), array(ending), longest, own=own)
    expected = by_hand(text, ending, longest)
    assert (None if found is None else (found.length, found.follows)) == expected


@given(
    st.lists(st.sampled_from([0, 1, 2, SEPARATOR]), min_size=3, max_size=40),
    st.data(),
    st.integers(1, 12),
    st.booleans(),
)
def test_likeliest(text: list[int], data: st.DataObject, most: int, own: bool) -> None:
    if own:
        text = [max(token, 0) for token in text]
    follows = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), min_size=1)), reverse=True)
    draft, shares = Match(array(text), 2, follows, own).likeliest(most)
    # The whole continuation of each occurrence, a text of its own repeating itself with the draft.
    endless = text + draft if own else [*text, SEPARATOR]
    alive, expected, expected_shares = follows, list[int](), list[float]()
    for ahead in range(most):
        nexts = [endless[at + ahead] if at + ahead < len(endless) else SEPARATOR for at in alive]
        counts = Counter(token for token in nexts if token != SEPARATOR)
        if not counts:
            break
        best = max(counts.values())
        token = next(token for token in nexts if counts[token] == best)  # of equals the latest occurrence's
        alive = [at for at, other in zip(alive, nexts, strict=True) if other == token]
        expected.append(token)
        expected_shares.append(len(alive) / len(follows))
    assert (draft, shares) == (expected, expected_shares)
    assert not own or len(draft) == most


def test_a_repetition_goes_on() -> None:
    text = array([9, 9, 1, 2, 3, 1, 2, 3, 1, 2])
    found = longest_match(text, text, own=True)
    assert found is not None
    assert found.latest(7) == [3, 1, 2, 3, 1, 2, 3]
    other = longest_match(text, array([1, 2, 3]))
    assert other is not None
    assert other.latest(7) == [1, 2]


def test_no_text_runs_into_the_next() -> None:
    text = array([5, 6, 7, 8, SEPARATOR, 1, 2])
    found = longest_match(text, array([6, 7]))
    assert found is not None
    assert found.latest(5) == found.likeliest(5)[0] == [8]
    assert longest_match(array([5, SEPARATOR, 6, 7, 1]), array([5, 6])) is None


@given(st.lists(st.lists(st.integers(0, 1000), max_size=70)), st.none() | st.integers(1, 100))
def test_a_buffer_keeps_the_latest_tokens(parts: list[list[int]], most: int | None) -> None:
    buffer, everything = TokenBuffer(most), list[int]()
    for part in parts:
        buffer.extend(part)
        everything += part
        kept = buffer.tokens.tolist()
        assert len(kept) == len(buffer)
        assert kept == everything[len(everything) - len(kept) :]
        assert most is None or len(kept) <= most
        assert len(kept) >= min(len(everything), len(part[-most:]) if most else len(everything))
