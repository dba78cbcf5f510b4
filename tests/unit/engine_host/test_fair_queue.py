"""Which key's request reaches the engine next: all of it by order, none of it by time."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtllm_openai.engine_host.fair_queue import RECENT_S, FairQueue
from trtllm_openai.generation import (
    Capabilities,
    EngineInfo,
    EngineStats,
    GenerationRequest,
    SamplingParams,
    StepOutput,
)

NOW = 5000.0
IDLE = EngineStats()


def info(places: int = 4, **more: Any) -> EngineInfo:
    capabilities = Capabilities(priority=True)
    return EngineInfo("fake", "Fake", "none", "cpu", 100, (2,), 512, places, capabilities, **more)


def request(name: str, key: str, prompt: int = 10, **more: Any) -> GenerationRequest:
    return GenerationRequest(name, [1] * prompt, SamplingParams(max_tokens=5), key=key, **more)


class Host:
    """The queue and an engine that begins everything at once; every request makes `tokens` tokens."""

    def __init__(self, places: int = 4, tokens: int = 5, **more: Any) -> None:
        self.queue = FairQueue(info(places, **more))
        self.tokens = tokens
        self.running: dict[str, int] = {}
        self.begun: list[str] = []
        self.now = NOW

    def put(self, *requests: GenerationRequest) -> None:
        for one in requests:
            self.queue.put(one, self.now)

    def step(self) -> None:
        while (one := self.queue.next(IDLE, self.now)) is not None:
            self.begun.append(one.request_id)
            self.running[one.request_id] = 0
        outputs = []
        for name in list(self.running):
            self.running[name] += 1
            done = self.running[name] == self.tokens
            outputs.append(StepOutput(name, [1], "length" if done else None))
        self.queue.stepped(outputs)
        for output in outputs:
            if output.finish_reason:
                del self.running[output.request_id]
                self.queue.ended(output.request_id)

    def run(self) -> list[str]:
        while self.queue.waiting or self.running:
            self.step()
        return self.begun


def test_a_flood_delays_another_key_by_nothing() -> None:
    """The second key's first request is the next to begin, in a place that the flood may not take."""
    host = Host(places=16)
    host.put(request("early", "polite"))  # both keys are in use
    host.put(*(request(f"flood {number}", "flood") for number in range(500)))
    for _ in range(40):
        host.step()
    before = len(host.begun)
    host.put(request("polite", "polite"))
    host.step()
    assert host.begun[before:].index("polite") == 0
    assert Counter(host.run()) == {
        "early": 1,
        "polite": 1,
        **{f"flood {number}": 1 for number in range(500)},
    }


def test_a_stranger_waits_for_one_end_and_no_more() -> None:
    """A key that nobody could have kept a place for is the first after the flood's next end."""
    host = Host(places=4)
    host.put(*(request(f"flood {number}", "flood") for number in range(50)))
    host.step()
    assert len(host.running) == 4, "one key alone has the whole batch"
    host.put(request("polite", "polite"))
    before = len(host.begun)
    while "polite" not in host.begun:
        host.step()
    assert host.begun[before] == "polite"


def marks(queue: FairQueue, now: float = NOW) -> dict[str, bool]:
    """All that the engine is given now, and whether it is marked as below its key's share."""
    begun = []
    while (one := queue.next(IDLE, now)) is not None:
        begun.append(one)
    return {one.request_id: one.below_share for one in queue.marked(begun)}


def test_a_key_far_below_its_share_of_places_is_marked() -> None:
    queue = FairQueue(info(32))
    for number in range(20):
        queue.put(request(f"flood {number}", "flood"), NOW)
    assert set(marks(queue).values()) == {False}, "there is nobody beside it"
    for number in range(12):
        queue.put(request(f"polite {number}", "polite"), NOW)
    assert marks(queue) == {f"polite {number}": False for number in range(12)}, "that is many at once"
    for number in range(10):
        queue.ended(f"polite {number}")
    queue.put(request("polite", "polite"), NOW)
    assert marks(queue) == {"polite": True}
    queue.put(request("flood", "flood"), NOW)
    assert marks(queue) == {"flood": False}


def test_what_enters_together_is_marked_together() -> None:
    """The first to enter an empty engine is below its share as well if a flood comes with it."""
    queue = FairQueue(info(32))
    queue.put(request("polite", "polite"), NOW)
    for number in range(20):
        queue.put(request(f"flood {number}", "flood"), NOW)
    assert [name for name, marked in marks(queue).items() if marked] == ["polite"]


@pytest.mark.parametrize(
    ("flood", "polite"),
    [({"key_priority": 0.9}, {}), ({}, {"priority": 0.1}), ({}, {"key_priority": 0.2})],
)
def test_a_lower_priority_is_never_first(flood: dict[str, Any], polite: dict[str, Any]) -> None:
    queue = FairQueue(info(32))
    for number in range(20):
        queue.put(request(f"flood {number}", "flood", **flood), NOW)
    marks(queue)
    queue.put(request("polite", "polite", **polite), NOW)
    assert marks(queue) == {"polite": False}


def test_alone_a_key_is_served_by_priority_and_arrival() -> None:
    host = Host(places=1)
    priorities = [None, 0.1, 0.9, 0.5, None, 1.0]
    host.put(*(request(str(number), "a", priority=one) for number, one in enumerate(priorities)))
    assert host.run() == ["5", "2", "0", "3", "4", "1"]


def test_one_keys_priorities_do_not_concern_another() -> None:
    host = Host(places=1)
    host.put(*(request(f"a{number}", "a", priority=1.0) for number in range(3)))
    host.put(*(request(f"b{number}", "b") for number in range(3)))
    assert host.run() == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_keys_of_higher_priority_go_first() -> None:
    host = Host(places=1)
    host.put(*(request(f"a{number}", "a") for number in range(2)))
    host.put(*(request(f"b{number}", "b", key_priority=0.8) for number in range(2)))
    host.put(*(request(f"c{number}", "c", key_priority=0.2) for number in range(2)))
    assert host.run() == ["b0", "b1", "a0", "a1", "c0", "c1"]


def test_long_prompts_cost_as_much_as_many_short_ones() -> None:
    host = Host(places=1, tokens=1)
    host.put(*(request(f"long {number}", "long", prompt=100) for number in range(10)))
    host.put(*(request(f"short {number}", "short", prompt=8) for number in range(100)))
    first = Counter(name.split()[0] for name in host.run()[:55])
    assert first["long"] == pytest.approx(5, abs=1)


def test_places_cost_as_long_as_they_are_held() -> None:
    """A key whose answers are four times as long gets a fourth of them."""
    host = Host(places=4)
    host.put(
        *(request(f"{key} {number}", key, prompt=1) for key in ("long", "short") for number in range(200))
    )
    ended: Counter[str] = Counter()
    while ended.total() < 100:
        while (one := host.queue.next(IDLE, NOW)) is not None:
            host.running[one.request_id] = 0
        outputs = []
        for name in list(host.running):
            host.running[name] += 1
            done = host.running[name] == (40 if name.startswith("long") else 10)
            outputs.append(StepOutput(name, [1], "length" if done else None))
            if done:
                del host.running[name]
        host.queue.stepped(outputs)
        for output in outputs:
            if output.finish_reason:
                host.queue.ended(output.request_id)
                ended[output.request_id.split()[0]] += 1
    assert ended["short"] / ended["long"] == pytest.approx(4, rel=0.2)


def test_idle_keys_save_nothing_up() -> None:
    host = Host(places=1)
    host.put(*(request(f"a{number}", "a") for number in range(20)))
    for _ in range(50):
        host.step()
    host.put(*(request(f"b{number}", "b") for number in range(10)))
    before = len(host.begun)
    order = "".join(name[0] for name in host.run()[before : before + 12])
    assert order in ("ba" * 6, "ab" * 6)


def test_a_key_that_has_been_served_alone_is_not_punished() -> None:
    host = Host(places=1)
    host.put(*(request(f"a{number}", "a") for number in range(50)))
    host.run()
    host.put(*(request(f"b{number}", "b") for number in range(6)))
    host.put(*(request(f"c{number}", "a") for number in range(6)))
    assert "".join(name[0] for name in host.run()[50:]) in ("bc" * 6, "cb" * 6)


def test_slots_are_reserved_only_while_several_keys_are_in_use() -> None:
    host = Host(places=16, tokens=10**6)
    host.put(*(request(f"a{number}", "a") for number in range(40)))
    host.put(request("b", "b"))
    host.step()
    assert len(host.running) == 15
    assert "b" in host.running
    host.now += 2 * RECENT_S
    host.step()
    assert len(host.running) == 15, "b is in use as long as it runs"
    del host.running["b"]
    host.queue.ended("b")
    host.step()
    assert len(host.running) == 15
    host.now += RECENT_S
    host.step()
    assert len(host.running) == 16


def test_an_engine_that_looks_ahead_may_while_there_is_one_key() -> None:
    host = Host(places=8, tokens=10**6, lookahead=3)
    host.put(*(request(f"a{number}", "a") for number in range(20)))
    host.step()
    assert len(host.running) == 11
    host.put(request("b", "b"))
    host.step()
    assert "b" not in host.running
    for number in range(4):
        del host.running[f"a{number}"]
        host.queue.ended(f"a{number}")
    host.step()
    assert len(host.running) == 8
    assert "b" in host.running


def test_no_more_is_begun_than_the_engine_can_soon_prefill() -> None:
    queue = FairQueue(info(100, max_num_tokens=50))
    for number in range(8):
        queue.put(request(str(number), "a", prompt=30), NOW)
    begun = []
    while (one := queue.next(IDLE, NOW)) is not None:
        begun.append(one.request_id)
    assert begun == ["0", "1", "2"], "two steps of 50 tokens hold three prompts of 30"
    queue.stepped([StepOutput("0", [1])])
    assert queue.next(IDLE, NOW) is not None
    assert queue.next(IDLE, NOW) is None
    queue.ended("1")  # without an output
    assert queue.next(IDLE, NOW) is not None


def test_no_more_is_begun_than_the_cache_has_room_for() -> None:
    queue = FairQueue(info(100, kv_block_size=16))
    for number in range(8):
        queue.put(request(str(number), "a", prompt=160), NOW)
    full = EngineStats(kv_blocks_total=100, kv_blocks_used=100)
    assert queue.next(full, NOW) is not None, "an engine that begins nothing is given one"
    assert queue.next(full, NOW) is None
    assert queue.next(EngineStats(kv_blocks_total=100, kv_blocks_used=50), NOW) is not None


def test_a_request_that_waits_can_be_removed_and_has_less_time_left() -> None:
    queue = FairQueue(info(1))
    for name in ("runs", "gone", "waits"):
        queue.put(request(name, "a", allotted_ms=2000), NOW)
    begun = queue.next(IDLE, NOW + 0.1)
    assert begun is not None
    assert (begun.request_id, begun.allotted_ms) == ("runs", 1900)
    assert begun.waited_ms == pytest.approx(100)
    assert queue.remove("gone")
    assert not queue.remove("gone")
    assert not queue.remove("runs"), "the engine has it"
    assert queue.waiting == 1
    queue.ended("runs")
    begun = queue.next(IDLE, NOW + 3)
    assert begun is not None
    assert (begun.request_id, begun.allotted_ms) == ("waits", 1)
    assert queue.waiting == 0
    assert queue.next(IDLE, NOW + 3) is None


@pytest.mark.parametrize(
    ("own", "key", "engine"),
    [
        (None, 0.5, None),
        (0.3, 0.5, 0.3),
        (0.9, 0.5, 0.5),
        (None, 0.8, 0.8),
        (0.9, 0.8, 0.8),
        (None, 0.1, 0.1),
    ],
)
def test_no_request_has_more_priority_in_the_engine_than_its_key(
    own: float | None, key: float, engine: float | None
) -> None:
    for capable in (True, False):
        facts = EngineInfo("", "", "", "", 9, (), 9, 4, Capabilities(priority=capable))
        queue = FairQueue(facts)
        queue.put(request("a", "a", priority=own, key_priority=key), NOW)
        begun = queue.next(IDLE, NOW)
        assert begun is not None
        assert begun.priority == (engine if capable else None)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_everything_begins_once_and_busy_keys_get_equal_service(data: st.DataObject) -> None:
    host = Host(places=data.draw(st.integers(1, 9)), tokens=data.draw(st.integers(1, 6)))
    keys = "abc"[: data.draw(st.integers(1, 3))]
    expected = []
    for number in range(data.draw(st.integers(1, 60))):
        name = f"{data.draw(st.sampled_from(keys))}{number}"
        host.put(request(name, name[0], prompt=data.draw(st.integers(1, 30))))
        expected.append(name)
        if data.draw(st.booleans()):
            host.step()
        assert len(host.running) <= host.queue._info.max_batch_size
        busy = [key.served for key in host.queue._keys.values() if key.waiting]
        # Bounded as in the paper: by one prompt and what all places make until an end.
        places = host.queue._info.max_batch_size
        assert max(busy, default=0) - min(busy, default=0) <= 2 * (
            30 + 2 * places * (host.tokens + 1) + 30 * places
        )
    assert sorted(host.run()) == sorted(expected)
    assert host.queue._unstarted_tokens == 0
    assert not host.queue._in_engine
