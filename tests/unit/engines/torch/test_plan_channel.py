"""The ring in shared memory between ranks: order, copies, and a rank that does not keep up."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from trtllm_openai.engines.torch import plan_channel
from trtllm_openai.engines.torch.plan_channel import SLOTS, PlanChannel, create

WORDS = 2000
PR_SET_PDEATHSIG = 1


def channels(size: int) -> list[PlanChannel]:
    """Every rank's end, in one process."""
    fd = create()
    fds = [fd, *(os.dup(fd) for _ in range(size - 1))]
    return [PlanChannel(one, WORDS, rank, size) for rank, one in enumerate(fds)]


def arrays(number: int) -> list[np.ndarray]:
    """A message of its own for each number: some arrays of unequal length, one of them empty."""
    return [np.arange(number % 7 * length, dtype=np.int32) + number for length in (1, 0, 30)]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def test_messages_arrive_in_order_as_copies() -> None:
    sender, *followers = channels(3)
    kept = []
    for number in range(10 * SLOTS):
        sender.send(arrays(number))
        kept += [(number, follower.receive()) for follower in followers]
    assert all(same(received, arrays(number)) for number, received in kept)  # though slots were used again


def test_a_message_of_the_full_size() -> None:
    sender, follower = channels(2)
    whole = [np.arange(WORDS - 5, dtype=np.int32), np.full(5, -1, dtype=np.int32)]
    for _ in range(SLOTS + 1):  # the end of the last slot, too
        sender.send(whole)
        assert same(follower.receive(), whole)


def test_the_sender_waits_for_a_slot_that_is_still_read() -> None:
    sender, fast, slow = channels(3)
    for number in range(SLOTS):
        sender.send(arrays(number))
        fast.receive()
    sent = threading.Event()

    def send() -> None:
        sender.send(arrays(SLOTS))
        sent.set()

    sending = threading.Thread(target=send)
    sending.start()
    assert not sent.wait(0.2)
    assert same(slow.receive(), arrays(0))
    assert sent.wait(20)
    sending.join()
    assert [same(slow.receive(), arrays(number)) for number in range(1, SLOTS + 1)] == [True] * SLOTS


def test_a_rank_that_receives_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_channel, "SEND_TIMEOUT_S", 0.1)
    sender, first, _ = channels(3)
    for number in range(SLOTS):
        sender.send(arrays(number))
        first.receive()
    with pytest.raises(RuntimeError, match=r"rank 2 has not received a step for 0\.1 seconds"):
        sender.send(arrays(SLOTS))


def test_unreceived_messages_are_counted_per_rank() -> None:
    sender, first, second = channels(3)
    assert [sender.awaited(rank) for rank in (1, 2)] == [0, 0]
    for number in range(3):
        sender.send(arrays(number))
    first.receive()
    assert [sender.awaited(rank) for rank in (1, 2)] == [2, 1]
    for _ in range(2):
        first.receive()
    second.receive()
    assert [sender.awaited(rank) for rank in (1, 2)] == [0, 2]


FOLLOWER = f"""
import ctypes, signal, sys
ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, signal.SIGKILL)  # not to spin for ever if the tests are killed
from trtllm_openai.engines.torch.plan_channel import PlanChannel
channel = PlanChannel(int(sys.argv[1]), int(sys.argv[2]), 1, 2)
for _ in range(int(sys.argv[3])):
    print(*(f"{{len(array)}}:{{array.sum()}}" for array in channel.receive()), flush=True)
"""


def test_another_process_receives_messages_sent_before_and_after_its_start() -> None:
    count = 200
    fd = create()
    command = [sys.executable, "-c", FOLLOWER, str(fd), str(WORDS), str(count)]
    with subprocess.Popen(command, pass_fds=[fd], stdout=subprocess.PIPE, text=True) as process:
        sender = PlanChannel(fd, WORDS, 0, 2)
        for number in range(count):
            sender.send(arrays(number))
        out, _ = process.communicate(timeout=60)
    expected = [" ".join(f"{len(one)}:{one.sum()}" for one in arrays(number)) for number in range(count)]
    assert out.splitlines() == expected
