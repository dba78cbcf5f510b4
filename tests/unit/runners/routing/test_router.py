"""The decision, without runners: work, prefixes, balance, sessions, what others report."""

import itertools
import random

import pytest

from trtllm_openai.generation import GenerationRequest, SamplingParams
from trtllm_openai.runners.routing.router import LEAST_TRUST, Route, Router

SOURCE = random.Random(3)
IDS = itertools.count()


def tokens(count: int) -> list[int]:
    return SOURCE.choices(range(50_000), k=count)


def request(prompt: list[int], salt: str | None = None) -> GenerationRequest:
    return GenerationRequest(str(next(IDS)), prompt, SamplingParams(5), cache_salt=salt)


def router(runners: int, **options: bool) -> Router:
    subject = Router(source=random.Random(1), **options)
    for index in range(runners):
        subject.add_runner(index, 1 << 20)
    subject.set_ready(range(runners))
    return subject


def send(subject: Router, prompt: list[int], session: str = "", salt: str | None = None) -> tuple[Route, str]:
    one = request(prompt, salt)
    route = subject.choose(one, session)
    subject.sent(route, [one])
    return route, one.request_id


def test_new_prompts_go_where_the_least_work_is() -> None:
    subject = router(4)
    long, _ = send(subject, tokens(8000))
    others = [send(subject, tokens(1000))[0].index for _ in range(6)]
    assert long.index not in others
    assert sorted(others.count(index) for index in set(others)) == [2, 2, 2]


def test_work_is_what_is_to_be_computed_and_what_runs() -> None:
    subject = router(2)
    route, name = send(subject, tokens(8000))
    queued = subject.work[route.index]
    subject.begun(name, 0)
    running = subject.work[route.index]
    subject.ended(name)
    assert queued > 8000 > running > 0
    assert subject.work == [0, 0]


def test_a_conversation_stays_on_its_runner() -> None:
    subject = router(8)
    prompt, places = tokens(700), set()
    for turn in range(10):
        route, name = send(subject, prompt)
        places.add(route.index)
        if turn:
            assert route.cached >= 500
        subject.begun(name, route.cached)
        subject.ended(name)
        for _ in range(3):
            send(subject, tokens(300))
        prompt = prompt + tokens(400)
    assert len(places) == 1


def test_a_prefix_is_worth_waiting_for_half_as_long_again_as_computing_it() -> None:
    subject = router(4)
    prompt = tokens(4000)
    first, name = send(subject, prompt)
    subject.ended(name)
    for index in range(4):
        subject.sent(Route(index), [request(tokens(20_000))])
    cached = subject.choose(request(prompt)).cached
    assert cached > 3000
    subject.sent(Route(first.index), [request(tokens(cached))])
    assert subject.choose(request(prompt)).index == first.index
    subject.sent(Route(first.index), [request(tokens(cached // 2))])
    assert subject.choose(request(prompt)).index != first.index


def test_a_hot_prefix_does_not_overload_its_runner() -> None:
    subject = router(8)
    prefix = tokens(4000)
    indexes = [send(subject, prefix + tokens(200))[0].index for _ in range(400)]
    counts = [indexes.count(index) for index in range(8)]
    assert max(counts) <= 1.25 * min(counts) + 4, counts


def test_prompts_of_other_salts_are_not_cached() -> None:
    subject = router(8)
    prompt = tokens(4000)
    first, name = send(subject, prompt, salt="alice")
    subject.ended(name)
    assert send(subject, prompt, salt="bob")[0].cached == 0
    again, _ = send(subject, prompt, salt="alice")
    assert (again.index, again.cached > 3000) == (first.index, True)


def test_an_engine_that_caches_nothing_is_not_trusted() -> None:
    subject = router(4)
    prompt = tokens(2000)
    for _ in range(400):
        _, name = send(subject, prompt)
        subject.begun(name, 0)
        subject.ended(name)
    assert subject.trust < 0.05
    assert subject.trust >= LEAST_TRUST
    for _ in range(400):
        route, name = send(subject, prompt)
        subject.begun(name, route.cached)
        subject.ended(name)
    assert subject.trust > 0.9, "it recovers when the cache is found again"


def test_a_session_is_continued_where_it_was() -> None:
    subject = router(8)
    first, name = send(subject, tokens(200), "chat 1")
    subject.ended(name)
    for _ in range(5):
        _, name = send(subject, tokens(50))
        subject.ended(name)
    assert send(subject, tokens(200), "chat 1")[0].index == first.index
    subject.elsewhere(first.index, 1000)
    assert send(subject, tokens(200), "chat 1")[0].index != first.index, "but not at any price"


def test_what_other_processes_sent_is_heard() -> None:
    mine, theirs = router(8, shared=True), router(8, shared=True)
    one = request(tokens(3000))
    route = theirs.choose(one)
    held = theirs.sent(route, [one])
    theirs.ended(one.request_id)
    again = mine.choose(one)
    assert again.cached == 0
    mine.heard(route.index, held)
    again = mine.choose(one)
    assert (again.index, again.cached > 2000) == (route.index, True)
    assert theirs.sent(theirs.choose(one), [one]) == [], "nothing is told twice"


def test_sequences_of_others_are_work() -> None:
    subject = router(2)
    subject.elsewhere(0, 3)
    assert {send(subject, tokens(10))[0].index for _ in range(3)} == {1}


def test_a_runner_that_was_lost_holds_nothing_and_has_no_work() -> None:
    subject = router(2)
    prompt = tokens(2000)
    route, name = send(subject, prompt)
    subject.forget_runner(route.index)
    subject.set_ready([1 - route.index])
    subject.begun(name, 0)
    subject.ended(name)
    moved, _ = send(subject, prompt)
    assert (moved.index, moved.cached) == (1 - route.index, 0)
    assert subject.work[route.index] == 0
    subject.add_runner(route.index, 1 << 20)
    subject.set_ready([0, 1])
    assert send(subject, tokens(50))[0].index == route.index


def test_choices_share_their_prompt() -> None:
    subject = router(2)
    prompt = tokens(3000)
    several = [request(prompt) for _ in range(4)]
    route = subject.choose(several[0])
    subject.sent(route, several)
    alone, other = subject.work[route.index], subject.work[1 - route.index]
    assert 3000 < alone < 2 * 3000
    assert other == 0
    for one in several:
        subject.ended(one.request_id)
    assert subject.work == [0, 0]


def test_without_affinity_only_work_counts() -> None:
    subject = router(2, affinity=False)
    prompt = tokens(4000)
    indexes = [send(subject, prompt, "session")[0].index for _ in range(10)]
    assert indexes.count(0) == indexes.count(1) == 5
    assert subject.table.holders == {}


@pytest.mark.parametrize("shared", [False, True])
def test_many_runners_are_balanced(shared: bool) -> None:
    subject = router(100, shared=shared)
    counts = [0] * 100
    for _ in range(1000):
        counts[send(subject, tokens(100))[0].index] += 1
    assert max(counts) <= (20 if shared else 13)
    assert min(counts) >= (4 if shared else 8)
