"""Kept guides: what is found is as if compiled anew, and what is kept is bounded."""

import pytest

from tests.unit.engines.torch.test_guide_trial import END, VOCABULARY
from trtllm_openai.engines.torch.guide_cache import BYTES, BYTES_PER_CHARACTER, GuideCache
from trtllm_openai.engines.torch.guides import GuideMatcher, compile_guide, make_tokenizer
from trtllm_openai.generation import Guide, SamplingParams, Thinking

TOKENIZER = make_tokenizer(VOCABULARY, len(VOCABULARY), (END,))
GUIDE = Guide("regex", "ab*c", "p")


def keep(cache: GuideCache, guide: Guide) -> GuideMatcher:
    matcher = compile_guide(TOKENIZER, guide, (END,), 50.0)
    cache.add(guide, matcher)
    return matcher


def test_a_found_one_is_at_the_beginning_whatever_the_others_read() -> None:
    cache = GuideCache()
    first = keep(cache, GUIDE)
    first.apply(SamplingParams(max_tokens=1, stop_token_ids=(ord("b"),)))
    assert first.accept_token(ord("a"))
    for _ in range(2):
        found = cache.get(GUIDE)
        assert found is not None
        assert (found.seconds, found.error) == (0.0, "")
        assert all(found.accept_token(token) for token in b"abbc")
        assert found.is_terminated() or found.accept_token(END)
    assert (cache.hits, cache.misses) == (2, 0)


def test_a_failed_copy_leaves_the_kept_one_intact() -> None:
    cache = GuideCache()
    keep(cache, GUIDE)
    for _ in range(2):
        found = cache.get(GUIDE)
        assert found is not None
        assert not found.accept_token(ord("x"))


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (Guide("regex", "ab*c", "another name", origins=((".a", "b"),), optional=True), True),
        (Guide("regex", "ab*", "p"), False),
        (Guide("grammar", "ab*c", "p"), False),
        (Guide("regex", "ab*c", "p", endless=True), False),
        (Guide("regex", "ab*c", "p", thinking=Thinking("<a>", "</a>", (1,), budget=3)), False),
        (Guide("regex", "ab*c", "p", special={"<a>": 3}), False),
    ],
)
def test_what_makes_two_guides_the_same(other: Guide, same: bool) -> None:
    cache = GuideCache()
    keep(cache, GUIDE)
    assert (cache.get(other) is not None) == same


def test_the_least_recently_used_one_is_dropped() -> None:
    guides = [Guide("regex", text) for text in ("a", "b", "c")]
    cache = GuideCache(max_guides=2)
    for guide in guides[:2]:
        keep(cache, guide)
    assert cache.get(guides[0]) is not None
    keep(cache, guides[2])
    assert [cache.get(guide) is not None for guide in guides] == [True, False, True]


def test_bytes_are_bounded() -> None:
    size = BYTES + BYTES_PER_CHARACTER
    cache = GuideCache(max_bytes=2 * size)
    for text in "abcd":
        keep(cache, Guide("regex", text))
        assert cache.bytes <= 2 * size
    keep(cache, Guide("regex", "a" * 5000))
    assert cache.get(Guide("regex", "a" * 5000)) is None, "one that is larger than all"
    assert cache.get(Guide("regex", "d")) is not None
