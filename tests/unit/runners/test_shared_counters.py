"""The numbers that processes share: totals, the lock, what a killed process leaves, and the table of keys.

Boards that are attached in one process do not exclude each other, which one thread does not notice.
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
board = SharedCounters.attach(int(sys.argv[1]), {ROWS}, row)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def board() -> Iterator[SharedCounters]:
    board = SharedCounters.create(ROWS)
    assert board.fd is not None
    yield board
    os.close(board.fd)


@pytest.fixture
def start(board: SharedCounters) -> Iterator[Start]:
    """Starts a process with `board` (its own row) and runs the code there."""
    processes: list[subprocess.Popen[str]] = []

    def run(code: str, row: int, *arguments: object) -> subprocess.Popen[str]:
        assert board.fd is not None
        command = [sys.executable, "-c", PREAMBLE + code, *map(str, (board.fd, row, *arguments))]
        process = subprocess.Popen(
            command, pass_fds=[board.fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def attach(board: SharedCounters, row: int) -> SharedCounters:
    assert board.fd is not None
    return SharedCounters.attach(board.fd, ROWS, row)


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


def test_totals_are_of_all_processes(board: SharedCounters, start: Start) -> None:
    code = "board.wait(row + 1, 10); board.begun(100.0 + row); print('done', flush=True); input()"
    processes = [start(code, row) for row in range(ROWS)]
    assert [line(process) for process in processes] == ["done"] * ROWS
    assert board.totals() == (1 + 2 + 3 + 4, 40)
    assert board.begin_times() == [100.0, 101.0, 102.0, 103.0]
    assert attach(board, 2).waiting == 3


def test_a_bound_of_one_holds_between_processes(board: SharedCounters, start: Start, tmp_path: Path) -> None:
    code = """
admission = Admission(LimitSettings(max_requests_per_key=1), lambda _: None, board)
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
    assert board.totals() == (0, 0)


def test_the_queue_is_bounded_over_all_processes(board: SharedCounters, start: Start) -> None:
    code = """
admission = Admission(LimitSettings(max_waiting_requests=3), lambda _: None, board)
print("ready", flush=True)
input()
tickets, most, refused = [], 0, 0
for _ in range(5000):
    try:
        tickets.append(admission.enter("", [5]))
    except Overloaded:
        refused += 1
    with board:
        most = max(most, board.totals()[0])
    if random.random() < 0.5 and tickets:
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
    assert board.totals() == (0, 0)


def test_who_dies_with_the_lock_takes_it_along(board: SharedCounters, start: Start) -> None:
    holder = start(
        """
with board:
    place = board.place("key")
    board.wait(2, 20)
    board.open(place)
    board.connections, board.accepting = 7, True
    print("held", flush=True)
    time.sleep(600)
""",
        0,
    )
    assert line(holder) == "held"
    other = start("print('ready', flush=True)\nwith board: board.wait(1, 5)\nprint('got it', flush=True)", 1)
    assert line(other) == "ready"
    kill(holder)
    assert line(other) == "got it"
    assert board.totals() == (3, 25)
    assert board.fewest_connections() == 7
    board.clear(0)
    assert board.totals() == (1, 5)
    assert board.fewest_connections() is None
    with board:
        place = board.place("key")
        assert place is not None
        assert board.opened(place) == 0


def test_nothing_is_left_of_processes_killed_at_any_moment(board: SharedCounters, start: Start) -> None:
    code = """
admission = Admission(LimitSettings(max_requests_per_key=3), lambda _: None, board)
print("started", flush=True)
while True:
    try:
        ticket = admission.enter(random.choice("abcdef"), [5, 7])
    except Overloaded:
        continue
    ticket.begun(0)
    ticket.close()
"""
    seed = time.time_ns()
    print(f"random.Random({seed})")  # pytest shows it when the test fails
    chance = random.Random(seed)
    processes = [start(code, row) for row in range(ROWS)]
    for _ in range(3):
        for row in range(ROWS):
            assert line(processes[row]) == "started"
            time.sleep(chance.random() / 100)
            kill(processes[row])
            board.clear(row)
            processes[row] = start(code, row)
    for row, process in enumerate(processes):
        kill(process)
        board.clear(row)
    assert board.totals() == (0, 0)
    places = set()
    for key in "abcdef":
        place = board.place(key)
        assert place is not None
        assert board.opened(place) == 0
        places.add(place)
    assert len(places) == 6


def test_a_full_table_has_no_place_until_one_is_free(board: SharedCounters) -> None:
    first, second = attach(board, 0), attach(board, 1)
    places = []
    for number in range(KEYS):
        one = (first, second)[number % 2]
        place = one.place(f"key {number}")
        assert place is not None
        one.open(place)
        places.append(place)
    assert sorted(places) == list(range(KEYS))
    assert first.place("one more") is None
    assert first.place("key 7") == places[7]  # who has a place keeps it
    second.leave(places[7])
    assert first.place("one more") == places[7]
    assert first.opened(places[7]) == 0
    first.open(places[7])
    assert second.place("key 7") is None
    board.clear(1)
    assert second.place("key 7") is not None


def test_a_place_taken_by_a_process_that_died_before_it_counted_is_free(board: SharedCounters) -> None:
    dead = attach(board, 0)
    for number in range(KEYS):
        assert dead.place(f"key {number}") is not None
    board.clear(0)
    live = attach(board, 1)
    for number in range(KEYS):
        place = live.place(f"other {number}")
        assert place is not None
        live.open(place)


def test_the_last_begun_of_all_rows_are_remembered_also_of_a_cleared_one(board: SharedCounters) -> None:
    times = [float(number) for number in range(1, 3 * RECENT)]
    boards = [attach(board, row) for row in range(ROWS)]
    for number, now in enumerate(times):
        if number == RECENT + 10:  # a new process takes the row and goes on where the old one was
            board.clear(1)
            boards[1] = attach(board, 1)
        boards[1 if number < 2 * RECENT else number % ROWS].begun(now)
        assert board.begin_times() == times[: number + 1][-RECENT:]


def test_the_fewest_connections_of_others_that_accept(board: SharedCounters) -> None:
    boards = [attach(board, row) for row in range(ROWS)]
    assert not boards[0].accepting
    assert boards[0].fewest_connections() is None
    for row, number in enumerate([1, 5, 3, 0]):
        boards[row].connections = number
        boards[row].accepting = row < 3
    assert [one.fewest_connections() for one in boards] == [3, 1, 1, 1]
    assert board.fewest_connections() == 1
    boards[0].accepting = False
    assert boards[3].fewest_connections() == 3
    assert SharedCounters.alone().fewest_connections() is None
