"""What we rely on of Open MPI 4, seen on the real one: spawn, oversubscription, binding, and a rank's death.

A small MPI program (`spawner.c`) is in the place of TensorRT-LLM's executor and its ranks.
"""

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fakes.open_mpi import AS_ROOT, open_mpi_missing, other_machine
from tests.unit.processes.test_ranks import lives, until
from trtllm_openai.processes.mpi import SPAWN_ENVIRONMENT
from trtllm_openai.processes.ranks import SETTLED_S, RankWatch, read_process

SOURCE = Path(__file__).with_name("spawner.c")
NOTICED_S = 2.0


pytestmark = pytest.mark.skipif(bool(open_mpi_missing()), reason=open_mpi_missing())


@pytest.fixture(scope="module")
def spawner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("mpi") / "spawner"
    subprocess.run(["mpicc", "-o", program, SOURCE], check=True, timeout=60)
    return program


@dataclass
class Engine:
    """A process that has spawned ranks, or tried to, and what all of them printed."""

    process: subprocess.Popen[str]
    watch: RankWatch
    printed: list[str] = field(default_factory=list)

    def look_for_loss(self) -> tuple[str, float]:
        """Look as `RankWatch.lost` does. Returns the loss, and the seconds until it was seen."""
        started = time.monotonic()
        reason = asyncio.run(asyncio.wait_for(self.watch.lost(), 20))
        return reason, time.monotonic() - started


@contextmanager
def engine(
    spawner: Path,
    count: int,
    rank: tuple[str, ...] = (),
    delay_s: float = 0.0,
    environment: dict[str, str] | None = None,
) -> Iterator[Engine]:
    """Run the program; afterwards nothing of it may be left."""
    process = subprocess.Popen(
        [spawner, str(count), str(round(delay_s * 1000)), *(rank or [str(spawner)])],
        env={**os.environ, **SPAWN_ENVIRONMENT, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    running = Engine(process, RankWatch(process.pid, launcher=False))
    reader = threading.Thread(target=running.printed.extend, args=(iter(process.stdout.readline, ""),))
    reader.start()
    try:
        yield running
    finally:
        process.kill()
        process.wait()
        running.watch.kill()
        asyncio.run(running.watch.cleared(5.0))
        reader.join(20)
        process.stdout.close()


def look_until(running: Engine, condition: Callable[[], object]) -> None:
    def seen() -> bool:
        assert running.watch.look() == ""
        return bool(condition())

    until(seen)


def test_a_rank_that_dies_in_service_is_noticed_where_the_engine_notices_nothing(spawner: Path) -> None:
    """Also: ranks are not bound to a core, and there may be more of them than cores."""
    with engine(spawner, 3) as running:
        look_until(running, lambda: "spawned\n" in running.printed and len(running.watch.ranks) == 3)
        until(lambda: running.printed.count(f"{len(os.sched_getaffinity(0))} cores\n") == 3)
        started = time.monotonic()
        os.kill(running.watch.ranks[1].pid, signal.SIGKILL)
        reason, _ = running.look_for_loss()
        took = time.monotonic() - started
        print(f"noticed in {took:.2f} s: {reason}")
        assert reason.startswith("rank ")
        assert took < NOTICED_S
        assert running.process.poll() is None
        ranks = [rank.pid for rank in running.watch.ranks]
    assert not any(map(lives, ranks))


def test_a_rank_that_dies_while_it_loads_is_noticed(spawner: Path) -> None:
    """It has not called MPI_Init yet: nobody but the daemon knows it, and MPI_Comm_spawn does not return."""
    with engine(spawner, 3, ("/bin/sh", "-c", "sleep 60; true")) as running:
        look_until(running, lambda: len(running.watch.ranks) == 3)
        os.kill(running.watch.ranks[2].pid, signal.SIGKILL)
        reason, took = running.look_for_loss()
        print(f"noticed in {took:.2f} s: {reason}")
        assert reason.startswith("rank ")
        assert took < NOTICED_S
        assert "spawned\n" not in running.printed
        assert running.process.poll() is None


@pytest.mark.parametrize("rank", [("/bin/sh", "-c", "exit 1"), ("/bin/true",)])
def test_a_rank_that_ends_at_once_is_noticed(spawner: Path, rank: tuple[str, ...]) -> None:
    """It is gone before anybody can see it."""
    with engine(spawner, 2, rank, delay_s=SETTLED_S + 0.6) as running:
        reason, took = running.look_for_loss()
        print(f"noticed in {took:.2f} s after the start, of which {SETTLED_S + 0.6} s wait: {reason}")
        assert reason.startswith(("rank ", "a rank ended as soon as orted"))
        assert running.process.poll() is None


def test_the_ranks_of_an_engine_that_was_killed_end(spawner: Path) -> None:
    """They and their daemon are in sessions and groups that a kill of the engine's group does not reach."""
    with engine(spawner, 2) as running:
        look_until(running, lambda: len(running.watch.ranks) == 2)
        group = os.getpgid(running.process.pid)
        everybody = [*running.watch.ranks, *running.watch._launchers.values()]
        assert {"orted"} < {one.name for one in everybody}
        assert all(os.getpgid(one.pid) != group for one in everybody)
        os.killpg(group, signal.SIGKILL)
        running.watch.kill()
        until(lambda: not any(lives(rank.pid) for rank in running.watch.ranks), 2.0)
        assert running.watch.look() == ""  # its own end says more
        asyncio.run(running.watch.cleared(5.0))  # the daemon does not always end
        until(lambda: not any(lives(one.pid) for one in everybody), 2.0)


def test_without_our_environment_there_are_too_few_slots(spawner: Path) -> None:
    """And it has to be there when MPI starts."""
    usual = dict.fromkeys(SPAWN_ENVIRONMENT, "")
    usual["OMPI_MCA_rmaps_base_oversubscribe"] = usual["OMPI_MCA_rmaps_base_inherit"] = "0"
    usual["OMPI_MCA_hwloc_base_binding_policy"] = "core"
    cores = len(os.sched_getaffinity(0))
    with engine(spawner, cores, environment=usual) as running:
        assert running.process.wait(20) != 0
        until(lambda: any("not enough slots" in line for line in running.printed))


def test_mpirun_refuses_root_unless_it_is_told_twice() -> None:
    if os.geteuid():
        pytest.skip("this is not root")
    plain = {name: value for name, value in os.environ.items() if name not in AS_ROOT}
    once = {"OMPI_ALLOW_RUN_AS_ROOT": "1"}
    for environment, works in ((plain, False), ({**plain, **once}, False), ({**plain, **AS_ROOT}, True)):
        done = subprocess.run(
            ["mpirun", "-n", "1", "true"], env=environment, capture_output=True, timeout=30, check=False
        )
        assert (done.returncode == 0) is works
        assert (b"attempt to run as root" in done.stdout + done.stderr) is not works


def test_mpirun_names_each_rank_and_hands_on_our_variables_alone(tmp_path: Path) -> None:
    """To another machine: only what begins with OMPI_ arrives there."""
    done = subprocess.run(
        [*other_machine(tmp_path), "-n", "2", "sh", "-c", 'echo "$OMPI_COMM_WORLD_RANK $OMPI_TOLD $TOLD"'],
        env={**os.environ, **AS_ROOT, "OMPI_TOLD": '{"a": "b c"}', "TOLD": "too"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert sorted(done.stdout.splitlines()) == ['0 {"a": "b c"} too', '1 {"a": "b c"} ']


def test_a_process_reaped_is_seen_in_its_parent() -> None:
    """What the watch for a daemon that lost a rank unseen stands on: it is 0 until a child was reaped."""
    process = subprocess.Popen(["sh", "-c", "read -r _; true | cat; read -r _"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        until(lambda: (seen := read_process(process.pid)) is not None and seen.name == "sh")
        assert (before := read_process(process.pid)) is not None
        assert before.reaped == 0
        process.stdin.write(b"\n")
        process.stdin.flush()
        until(lambda: (seen := read_process(process.pid)) is not None and seen.reaped > 0)
    finally:
        process.communicate(b"\n")
