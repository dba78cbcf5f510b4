"""Ranks that live, die and are killed beneath a process, with small processes in their places."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trtllm_openai.processes import ranks
from trtllm_openai.processes.ranks import RankWatch, read_process

FAKES = Path(__file__).parents[2] / "fakes"
WORKER = FAKES / "tensorrt_llm" / "bin" / "executorWorker"
SPAWN = f"{sys.executable} -S -E {FAKES}/tensorrt_llm/bin/orted {WORKER} 3 0"
ENGINE = f"exec 3<&0; setsid {SPAWN} <&3 & while true; do sleep 0.01; done"
"""An engine: its ranks are beneath a daemon, and it starts a helper now and then."""


@contextmanager
def running(script: str) -> Iterator[int]:
    """Process id of a shell that runs `script`, which must not outlive its standard input."""
    process = subprocess.Popen(
        ["bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def watch_of(pid: int, count: int, *, launcher: bool = False) -> RankWatch:
    """A watch that has seen `count` ranks and lost none."""
    watch = RankWatch(pid, launcher=launcher)

    def all_are_there() -> bool:
        assert watch.look() == ""
        return len(watch.ranks) == count

    until(all_are_there)
    return watch


def lives(pid: int) -> bool:
    process = read_process(pid)
    return process is not None and not process.ended


def test_a_process_is_read() -> None:
    mine = read_process(os.getpid())
    assert mine is not None
    assert not mine.ended
    assert mine.name == Path("/proc/self/comm").read_text().strip()
    child = subprocess.Popen(["sh", "-c", "exit 3"])
    until(lambda: (seen := read_process(child.pid)) is not None and seen.ended)
    assert (zombie := read_process(child.pid)) is not None
    assert os.waitstatus_to_exitcode(zombie.status) == 3
    before = mine.reaped
    child.wait()
    assert (now := read_process(os.getpid())) is not None
    assert now.reaped > before
    assert read_process(child.pid) is None


def test_a_dead_rank_is_named() -> None:
    with running(ENGINE) as pid:
        watch = watch_of(pid, 3)
        assert watch.look() == ""  # helpers of the engine have come and gone
        victim = next(rank for rank in watch.ranks if rank_number(rank.pid) == "1")
        os.kill(victim.pid, signal.SIGKILL)
        until(lambda: not lives(victim.pid))
        assert watch.look().startswith("rank ")
        assert lives(pid)


def rank_number(pid: int) -> str:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(one.decode() for one in variables if one.startswith(b"PMIX_RANK=")).partition("=")[2]


NEVER_WAITS = """
import subprocess, time
def rank(number, *command):
    subprocess.Popen(command, env={"PATH": "/usr/bin:/bin", "OMPI_COMM_WORLD_RANK": str(number)})
rank(0, "sleep", "1000")
rank(1, "sh", "-c", "trap \\"exit 5\\" TERM; while true; do sleep 0.01; done")
time.sleep(1000)
"""
"""A launcher that does not ask how its ranks ended; the second one starts helpers itself."""


@pytest.mark.parametrize(
    ("number", "how"), [(signal.SIGKILL, "was killed by signal 9"), (signal.SIGTERM, "ended with status 5")]
)
def test_how_a_rank_ended_is_told_while_that_is_known(number: signal.Signals, how: str) -> None:
    with running(f"exec {sys.executable} -S -c '{NEVER_WAITS}'") as pid:
        watch = watch_of(pid, 2, launcher=True)
        victim = next(rank for rank in watch.ranks if rank.name == "sh")
        until(lambda: ranks._children(victim.pid))  # its trap is set
        os.kill(victim.pid, number)
        until(lambda: (now := read_process(victim.pid)) is not None and now.ended and now.status)
        assert watch.look() == f"rank 1 (sh, process {victim.pid}) {how}"


def test_the_agents_of_a_launcher_may_end() -> None:
    """mpirun reaches other machines through ssh, which ends once the daemon there runs."""
    with running("PMIX_RANK=0 sleep 1000 & while true; do sleep 0.01; done") as pid:
        watch = watch_of(pid, 1, launcher=True)
        for _ in range(20):
            assert watch.look() == ""
            time.sleep(0.01)
        assert [rank.name for rank in watch.ranks] == ["sleep"]


def test_a_dead_daemon_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(ENGINE) as pid:
        watch = watch_of(pid, 3)
        monkeypatch.setattr(ranks, "SETTLED_S", 0.0)  # now that it has started its ranks
        assert watch.look() == ""
        (daemon,) = watch._launchers.values()
        os.kill(daemon.pid, signal.SIGSTOP)  # it must not be asked by its ranks first
        watch._ranks.clear()
        os.kill(daemon.pid, signal.SIGKILL)
        until(lambda: not lives(daemon.pid))
        assert watch.look().startswith(f"the launcher of the ranks (orted, process {daemon.pid}) ")


def test_a_process_that_has_ended_lost_nothing() -> None:
    """Its own exit status says more."""
    with running(ENGINE) as pid:
        watch = watch_of(pid, 3)
        os.kill(pid, signal.SIGKILL)
        for rank in watch.ranks:
            os.kill(rank.pid, signal.SIGKILL)
        until(lambda: not any(lives(rank.pid) for rank in watch.ranks))
        assert watch.look() == ""


def test_all_ranks_are_killed_and_waited_for() -> None:
    """They are in process groups of their own, and their daemon in another session."""
    with running(ENGINE) as pid:
        watch = watch_of(pid, 3)
        found = [one.pid for one in (*watch._launchers.values(), *watch.ranks)]
        assert len(found) == 4
        os.killpg(pid, signal.SIGKILL)
        assert lives(found[0])
        watch.kill()
        until(lambda: not any(lives(rank.pid) for rank in watch.ranks))
        os.kill(found[0], signal.SIGSTOP)  # a daemon that does not end by itself
        asyncio.run(watch.cleared(0.0))
        until(lambda: not any(map(lives, found)))


def test_the_loss_comes_to_the_loop_and_the_watch_ends() -> None:
    async def test(pid: int) -> None:
        watch = watch_of(pid, 3)
        waits = asyncio.create_task(watch.lost())
        await asyncio.sleep(2 * ranks.POLL_S)
        assert not waits.done()
        victim = watch.ranks[-1]
        number = rank_number(victim.pid)
        os.kill(victim.pid, signal.SIGKILL)  # the daemon then ends the others
        async with asyncio.timeout(20):
            reason = await waits
        assert reason.startswith(f"rank {number} (executorWorker, process {victim.pid}) ")

    with running(ENGINE) as pid:
        asyncio.run(test(pid))


def test_nobody_watches_when_nobody_waits() -> None:
    async def test(pid: int) -> None:
        waits = asyncio.create_task(RankWatch(pid, launcher=False).lost())
        await asyncio.sleep(0)
        assert watchers()
        waits.cancel()

    def watchers() -> list[str]:
        return [one.name for one in threading.enumerate() if one.name == "rank watch"]

    with running("read -r _") as pid:
        asyncio.run(test(pid))
        until(lambda: not watchers())
