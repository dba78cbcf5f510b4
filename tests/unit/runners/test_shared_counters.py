"""The numbers that processes share: totals, the lock, what a killed process leaves, and the table of keys.

Counters attached in one process do not lock each other out, which does not matter within one thread.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trtllm_openai.runners import SharedCounters
from trtllm_openai.runners.shared_counters import KEYS, RECENT

ROWS = 4
PREAMBLE = f"""
import os, random, sys, time
from trtllm_openai.config import LimitSettings
from trtllm_openai.errors import Overloaded
from trtllm_openai.runners import Admission, SharedCounters

row = int(sys.argv[2])
chance = random.Random(row)
counters = SharedCounters.attach(int(sys.argv[1]), {ROWS}, row)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def counters() -> Iterator[SharedCounters]:
    counters = SharedCounters.create(ROWS)
    assert counters.fd is not None
    yield counters
    os.close(counters.fd)


@pytest.fixture
def start(counters: SharedCounters) -> Iterator[Start]:
    """Starts a process with `counters` (its own row) and runs the code there."""
    processes: list[subprocess.Popen[str]] = []

    def run(code: str, row: int, *arguments: object) -> subprocess.Popen[str]:
        assert counters.fd is not None
        command = [sys.executable, "-c", PREAMBLE + code, *map(str, (counters.fd, row, *arguments))]
        process = subprocess.Popen(
            command, pass_fds=[counters.fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def attach(counters: SharedCounters, row: int) -> SharedCounters:
    assert counters.fd is not None
    return SharedCounters.attach(counters.fd, ROWS, row)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def race(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Lets them go together; what each printed at its end."""
    assert [line(process) for process in processes] == ["ready"] * len(processes)
    for process in processes:
        assert process.stdin is not None
        print("go", file=process.stdin, flush=True)
    for process in processes:
        process.wait()
    return [process.communicate()[0] for process in processes]


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_totals_are_of_all_processes(counters: SharedCounters, start: Start) -> None:
    code = "counters.admit(row + 1, 10); counters.begun(100.0 + row); print('done', flush=True); input()"
    processes = [start(code, row) for row in range(ROWS)]
    assert [line(process) for process in processes] == ["done"] * ROWS
    assert counters.totals() == (1 + 2 + 3 + 4, 40)
    assert counters.begin_times() == [100.0, 101.0, 102.0, 103.0]
    assert attach(counters, 2).waiting == 3


def test_a_bound_of_one_holds_between_processes(
    counters: SharedCounters, start: Start, tmp_path: Path
) -> None:
    code = """
admission = Admission(LimitSettings(max_requests_per_key=1), lambda _: None, counters)
print("ready", flush=True)
input()
entered = refused = 0
while entered < 3000:
    try:
        ticket = admission.enter("key", [1])
    except Overloaded:
        refused += 1
        continue
    try:
        os.close(os.open(sys.argv[3], os.O_CREAT | os.O_EXCL))  # fails if another process is inside
        os.unlink(sys.argv[3])
    finally:
        ticket.close()
    entered += 1
print(refused)
"""
    processes = [start(code, row, tmp_path / "inside") for row in range(ROWS)]
    refused = race(processes)
    assert [process.returncode for process in processes] == [0] * ROWS
    assert sum(map(int, refused))
    assert counters.totals() == (0, 0)


def test_the_queue_is_bounded_over_all_processes(counters: SharedCounters, start: Start) -> None:
    code = """
admission = Admission(LimitSettings(max_waiting_requests=3), lambda _: None, counters)
print("ready", flush=True)
input()
tickets, most, refused = [], 0, 0
for _ in range(5000):
    try:
        tickets.append(admission.enter("", [5]))
    except Overloaded:
        refused += 1
    with counters.lock:
        most = max(most, counters.totals()[0])
    if chance.random() < 0.5 and tickets:
        ticket = tickets.pop()
        ticket.begun(0)
        ticket.close()
for ticket in tickets:
    ticket.close()
print(most, refused)
"""
    processes = [start(code, row) for row in range(ROWS)]
    for result in race(processes):
        most, refused = map(int, result.split())
        assert most <= 3
        assert refused
    assert counters.totals() == (0, 0)


def test_the_lock_of_a_killed_process_is_released(counters: SharedCounters, start: Start) -> None:
    holder = start(
        """
with counters.lock:
    slot = counters.slot("key")
    counters.admit(2, 20, slot)
    counters.connections, counters.accepting = 7, True
    print("held", flush=True)
    time.sleep(600)
""",
        0,
    )
    assert line(holder) == "held"
    other = start(
        "print('ready', flush=True)\nwith counters.lock: counters.admit(1, 5)\nprint('got it', flush=True)", 1
    )
    assert line(other) == "ready"
    kill(holder)
    assert line(other) == "got it"
    assert counters.totals() == (3, 25)
    assert counters.fewest_connections() == 7
    counters.clear(0)
    assert counters.totals() == (1, 5)
    assert counters.fewest_connections() is None
    with counters.lock:
        slot = counters.slot("key")
        assert slot is not None
        assert counters.opened(slot) == 0


def test_nothing_is_left_of_processes_killed_at_any_moment(
    counters: SharedCounters, start: Start, chance: random.Random
) -> None:
    code = """
admission = Admission(LimitSettings(max_requests_per_key=3), lambda _: None, counters)
print("started", flush=True)
while True:
    try:
        ticket = admission.enter(chance.choice("abcdef"), [5, 7])
    except Overloaded:
        continue
    ticket.begun(0)
    ticket.close()
"""
    processes = [start(code, row) for row in range(ROWS)]
    for _ in range(3):
        for row in range(ROWS):
            assert line(processes[row]) == "started"
            time.sleep(chance.random() / 100)
            kill(processes[row])
            counters.clear(row)
            processes[row] = start(code, row)
    for row, process in enumerate(processes):
        kill(process)
        counters.clear(row)
    assert counters.totals() == (0, 0)
    slots = set()
    for key in "abcdef":
        slot = counters.slot(key)
        assert slot is not None
        assert counters.opened(slot) == 0
        slots.add(slot)
    assert len(slots) == 6


def test_a_full_table_of_keys_has_no_slot_until_one_is_free(counters: SharedCounters) -> None:
    first, second = attach(counters, 0), attach(counters, 1)
    slots = []
    for number in range(KEYS):
        one = (first, second)[number % 2]
        slot = one.slot(f"key {number}")
        assert slot is not None
        one.admit(0, 0, slot)
        slots.append(slot)
    assert sorted(slots) == list(range(KEYS))
    assert first.slot("one more") is None
    assert first.slot("key 7") == slots[7]  # a key keeps its slot
    second.leave(slots[7])
    assert first.slot("one more") == slots[7]
    assert first.opened(slots[7]) == 0
    first.admit(0, 0, slots[7])
    assert second.slot("key 7") is None
    counters.clear(1)
    assert second.slot("key 7") is not None


def test_a_slot_allocated_by_a_process_that_died_is_free(counters: SharedCounters) -> None:
    dead = attach(counters, 0)
    for number in range(KEYS):
        assert dead.slot(f"key {number}") is not None
    counters.clear(0)
    live = attach(counters, 1)
    for number in range(KEYS):
        slot = live.slot(f"other {number}")
        assert slot is not None
        live.admit(0, 0, slot)


def test_the_last_begun_of_all_rows_are_remembered_also_of_a_cleared_one(counters: SharedCounters) -> None:
    times = [float(number) for number in range(1, 3 * RECENT)]
    views = [attach(counters, row) for row in range(ROWS)]
    for number, now in enumerate(times):
        if number == RECENT + 10:  # a new process takes the row and goes on where the old one was
            counters.clear(1)
            views[1] = attach(counters, 1)
        views[1 if number < 2 * RECENT else number % ROWS].begun(now)
        assert counters.begin_times() == times[: number + 1][-RECENT:]


def test_the_fewest_connections_of_others_that_accept(counters: SharedCounters) -> None:
    views = [attach(counters, row) for row in range(ROWS)]
    assert not views[0].accepting
    assert views[0].fewest_connections() is None
    for row, number in enumerate([1, 5, 3, 0]):
        views[row].connections = number
        views[row].accepting = row < 3
    assert [one.fewest_connections() for one in views] == [3, 1, 1, 1]
    assert counters.fewest_connections() == 1
    views[0].accepting = False
    assert views[3].fewest_connections() == 3
    assert SharedCounters.alone().fewest_connections() is None
