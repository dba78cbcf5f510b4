"""Names of prefixes: equal for equal prefixes, whatever follows."""

import itertools
import random
import subprocess
import sys

from trtllm_openai.runners.routing.names import DEPTHS, EXACT, SEGMENTS, STEP, prefix_names, seed

PROMPT = random.Random(5).choices(range(50_000), k=20_000)


def names(tokens: list[int]) -> list[int]:
    return list(prefix_names(tokens, 0))


def test_the_segments_follow_each_other() -> None:
    assert [begin for begin, _, _ in SEGMENTS] == [0, *DEPTHS[:-1]]
    assert all(depth % STEP == 0 for depth in DEPTHS)
    assert all(after <= before * 1.25 + STEP for before, after in itertools.pairwise(DEPTHS))


def test_a_name_is_that_of_the_prefix_alone() -> None:
    whole = names(PROMPT)
    assert len(whole) == sum(depth <= len(PROMPT) for depth in DEPTHS)
    for length in (0, 63, 64, 1000, 19_999):
        part = names(PROMPT[:length])
        assert part == whole[: len(part)]
        assert len(part) == sum(depth <= length for depth in DEPTHS)


def test_every_token_counts_at_first_and_later_what_follows_a_change() -> None:
    for position in range(0, EXACT, 37):
        changed = [*PROMPT]
        changed[position] += 1
        level = sum(depth <= position for depth in DEPTHS)
        same = [a == b for a, b in zip(names(changed), names(PROMPT), strict=True)]
        assert same == [number < level for number in range(len(same))]
    inserted = [*PROMPT[:5000], 7, *PROMPT[5000:]]
    same = [a == b for a, b in zip(names(inserted), names(PROMPT), strict=False)]
    level = sum(depth <= 5000 for depth in DEPTHS)
    assert all(same[:level])
    assert not any(same[level:])


def test_names_can_be_continued() -> None:
    whole = names(PROMPT)
    assert list(prefix_names(PROMPT, whole[9], 10)) == whole[10:]


def test_other_seeds_share_nothing() -> None:
    seeds = [seed(), seed("a"), seed("b"), seed("", "a"), seed("a", "b"), seed("\udc80")]
    assert len({next(prefix_names(PROMPT, one)) for one in seeds}) == len(seeds)
    assert seed("", "") == seed() == 0


def test_another_process_finds_the_same_names() -> None:
    code = (
        "from trtllm_openai.runners.routing.names import *;"
        "print(list(prefix_names(list(range(3000)), seed('salt'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(list(prefix_names(list(range(3000)), seed("salt"))))
