"""The stop matcher against the plain definition: the stop string whose end comes first."""

from hypothesis import given, settings
from hypothesis import strategies as st

from trtllm_openai.text.stops import StopMatcher, compiled

LETTERS = st.text(alphabet="ab", min_size=1, max_size=5)


def definition(text: str, stops: list[str]) -> tuple[str, str | None]:
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(st.text(alphabet="abc", max_size=40), st.lists(LETTERS, min_size=1, max_size=4), st.data())
@settings(max_examples=500)
def test_whatever_the_pieces(text: str, stops: list[str], data: st.DataObject) -> None:
    matcher, shown, rest = StopMatcher(stops), "", text
    expected, stop = definition(text, stops)
    while rest and matcher.matched is None:
        size = data.draw(st.integers(1, len(rest)))
        shown += matcher.push(rest[:size])
        rest = rest[size:]
        assert expected.startswith(shown), "a part of the stop string was shown"
    assert matcher.matched == stop
    assert shown + matcher.flush() == expected


def test_shows_all_that_cannot_belong_to_a_stop() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("the E") == "the "
    assert matcher.push("N") == ""
    assert matcher.push("x") == "ENx"
    assert matcher.push("no stop here") == "no stop here"


def test_linear_in_the_text_however_repetitive() -> None:
    """Quadratic work would take minutes here."""
    stop = "a" * 1000 + "b"
    matcher = StopMatcher([stop])
    shown = sum(len(matcher.push("a" * 50)) for _ in range(2000))
    assert shown == 100_000 - 1000
    assert matcher.push("b") == ""
    assert matcher.matched == stop


def test_matchers_of_the_same_stops_share_their_tables_and_no_state() -> None:
    compiled.cache_clear()
    first, second = StopMatcher(["abc", "b"]), StopMatcher(("abc", "b"))
    assert compiled.cache_info().misses == 1
    assert first.push("a") == ""
    assert second.push("c") == "c"
    assert first.push("bc") == "a"
    assert (first.matched, second.matched) == ("b", None)
