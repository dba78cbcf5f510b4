"""The lock between processes: it excludes another process, and goes with one that is killed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trtllm_openai.processes.lock import ProcessLock

TRY = """
import fcntl, sys
try:
    fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("free")
except BlockingIOError:
    print("locked")
"""
HOLD = """
import sys
from trtllm_openai.processes.lock import ProcessLock
with ProcessLock(int(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    yield fd
    os.close(fd)


def seen_by_another(fd: int) -> str:
    command = [sys.executable, "-c", TRY, str(fd)]
    return subprocess.run(command, pass_fds=[fd], stdout=subprocess.PIPE, text=True, check=True).stdout


def test_it_excludes_other_processes_while_it_is_held(fd: int) -> None:
    with ProcessLock(fd):
        assert seen_by_another(fd) == "locked\n"
    assert seen_by_another(fd) == "free\n"


def test_the_lock_of_a_killed_process_is_released(fd: int) -> None:
    command = [sys.executable, "-c", HOLD, str(fd)]
    with subprocess.Popen(
        command, pass_fds=[fd], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        assert seen_by_another(fd) == "locked\n"
        holder.kill()
    with ProcessLock(fd):
        pass


def test_without_a_file_there_is_nothing_to_exclude() -> None:
    lock = ProcessLock(None)
    with lock, lock:
        pass
