"""Leases, leaders and reports, on a clock that is turned by hand."""

from typing import Any

import pytest

from trtllm_openai.runners.registry import LEASE_S, Beat, Order, Registry, View


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Front:
    """A front machine, as the registry sees it."""

    def __init__(self, name: str, model: str = "m") -> None:
        self.name = name
        self.settings = {"model": model}
        self.view = View(leader="", term=0, revision=0)
        self.report: bytes | None = None

    def sync(self, registry: Registry, **said: Any) -> View:
        own = {"term": self.view.term, "revision": self.view.revision, "leads": self.leads} | said
        self.view = registry.sync(Beat(front=self.name, settings=self.settings, **own))
        self.report = self.view.report or self.report
        return self.view

    @property
    def leads(self) -> bool:
        return self.view.leader == self.name


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(clock: Clock) -> Registry:
    return Registry(clock=clock)


def test_the_first_leads_and_the_others_are_told_its_report(registry: Registry) -> None:
    first, second = Front("a"), Front("b")
    assert first.sync(registry).leader == "a"
    assert second.sync(registry).report is None
    first.sync(registry, report=b"1")
    view = second.sync(registry)
    assert (view.leader, view.report, view.fronts) == ("a", b"1", ["a", "b"])
    assert second.sync(registry).report is None  # it has that
    assert registry.leads("a", view.term)
    assert not registry.leads("b", view.term)
    assert not registry.leads("a", view.term - 1)


def test_only_the_leader_publishes(registry: Registry) -> None:
    first, second, third = Front("a"), Front("b"), Front("c")
    first.sync(registry)
    first.sync(registry, report=b"1")
    second.sync(registry)
    second.sync(registry, report=b"forged", leads=True)
    second.sync(registry, report=b"forged")
    assert third.sync(registry).report == b"1"


def test_one_that_is_silent_is_followed_by_another_and_is_told_so(registry: Registry, clock: Clock) -> None:
    first, second = Front("a"), Front("b")
    first.sync(registry)
    first.sync(registry, report=b"1")
    for _ in range(3):
        clock.now += LEASE_S / 2
        second.sync(registry)
    assert second.leads
    assert second.report == b"1"  # what runs
    assert second.view.fronts == ["b"]
    assert not registry.leads("a", first.view.term)
    second.sync(registry, report=b"2")
    first.sync(registry, report=b"stale", leads=True)  # it was only paused
    assert (first.leads, first.report) == (False, b"2")


def test_a_lease_is_worth_nothing_once_it_has_ended(registry: Registry, clock: Clock) -> None:
    first = Front("a")
    view = first.sync(registry)
    assert registry.leads("a", view.term)
    clock.now += LEASE_S
    assert not registry.leads("a", view.term)


def test_one_that_leaves_hands_over_at_once(registry: Registry) -> None:
    first, second = Front("a"), Front("b")
    first.sync(registry)
    first.sync(registry, report=b"1")
    second.sync(registry)
    assert registry.leave("a") == 1
    assert second.sync(registry).leader == "b"
    assert registry.leave("b") == 0


def test_orders_reach_the_leader_once(registry: Registry) -> None:
    first, second = Front("a"), Front("b")
    first.sync(registry)
    order = Order(observer="b", index=1, seconds=30.0)
    assert second.sync(registry, orders=[order]).orders == []
    assert first.sync(registry).orders == [order]
    assert first.sync(registry).orders == []


def test_other_settings_may_not_join_while_somebody_is_there(registry: Registry, clock: Clock) -> None:
    first, second = Front("a"), Front("b", model="other")
    first.sync(registry)
    view = second.sync(registry)
    assert (view.differs, view.leader) == (["model"], "")
    assert first.sync(registry).fronts == ["a"]
    clock.now += LEASE_S
    assert second.sync(registry).leader == "b"


@pytest.mark.parametrize("leader_first", [True, False])
def test_one_that_was_lost_learns_from_its_callers(
    registry: Registry, clock: Clock, leader_first: bool
) -> None:
    first, second = Front("a"), Front("b")
    first.sync(registry)
    first.sync(registry, report=b"1")
    second.sync(registry)
    again = Registry(forgotten=True, clock=clock)
    known = second.view
    if leader_first:
        first.sync(again, report=b"1")
        assert first.leads
    else:
        assert second.sync(again).leader == ""  # the one that leads shall say so
        second.sync(again, term=known.term, revision=known.revision, report=b"1")
        first.sync(again, report=b"1")
    assert first.leads
    assert second.sync(again).leader == "a"
    assert second.report == b"1"


def test_one_that_was_lost_together_with_the_leader(registry: Registry, clock: Clock) -> None:
    first, second = Front("a"), Front("b")
    first.sync(registry)
    first.sync(registry, report=b"1")
    known = second.sync(registry)
    again = Registry(forgotten=True, clock=clock)
    for _ in range(4):
        clock.now += LEASE_S / 3
        view = again.sync(
            Beat(front="b", settings=second.settings, term=known.term, revision=known.revision, report=b"1")
        )
    assert view.leader == "b"
    assert view.term == known.term + 1
