"""Launchers start runner processes. `SubprocessLauncher` starts them on this machine.

A launcher for another machine implements the same protocol: it picks a `tcp://` address there, hands over
the `LaunchSpec` (in a message to its agent, or in the environment), applies `spec.gpus`, and ties the
runner's standard input to this process's life. Nothing else in the server needs to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from trtllm_openai.engine_host.messages import SPEC_VARIABLE, LaunchSpec
from trtllm_openai.engine_host.prestart import PrestartedHosts, start_host
from trtllm_openai.processes.address import UnixAddress, listen
from trtllm_openai.processes.ranks import RankWatch
from trtllm_openai.runners.state import Endpoint

log = logging.getLogger(__name__)

LONGEST_TEMPORARY = 57
"""Bytes of a temporary directory's path that leave room for a socket: its path has at most 107."""
OTHER_TEMPORARIES = ("/tmp", "/var/tmp", "/dev/shm")
"""Where sockets go when the temporary directory's path is too long, or it is gone, full or read-only."""
NOT_OF_THE_DIRECTORY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""Errors of making a socket that another directory would not help."""


class RunnerHandle(Protocol):
    """A started runner process."""

    @property
    def address(self) -> str:
        """The address at which it listens, or soon will: `unix:/path` or `tcp://host:port`."""

    @property
    def pid(self) -> int | None:
        """Process id on its machine; None once it has ended."""

    async def wait(self) -> int:
        """Wait for the end of the process. Returns its exit status, -N if signal N killed it."""

    async def lost(self) -> str:
        """Wait until a process dies that it needs, while it lives itself. Returns which one, and how."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """Kill it, and every process that it started. Also after it has ended, for those it left behind."""

    async def cleared(self, timeout_s: float) -> None:
        """After `kill`, wait until nothing of it holds a GPU any more, for so many seconds."""


class Launcher(Protocol):
    """Starts runners somewhere."""

    @property
    def encrypted(self) -> bool:
        """Whether connections to its runners need TLS; each launch then has an identity of its own. Without
        it a runner at a `tcp://` address that other machines reach is refused."""

    async def start(self, spec: LaunchSpec) -> RunnerHandle:
        """Start one, which is told `spec` with an address filled in. Raises `OSError` if that fails."""

    def close(self) -> None:
        """All runners have ended; free what they shared."""


class SharedLauncher(Launcher, Protocol):
    """Starts runners that outlive this process, and finds those that others started."""

    async def find(self, endpoint: Endpoint) -> RunnerHandle:
        """The runner of this endpoint. Raises `OSError` if it is gone."""

    async def sweep(self, endpoints: Iterable[Endpoint]) -> None:
        """Free what starts that were broken off have left behind: all but the runners of these endpoints."""


class SubprocessHandle:
    """A runner process of this machine, the leader of a process group. Implements `RunnerHandle`.

    MPI ranks are in process groups of their own: `ranks` watches, and kills, those of an engine that has any.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, address: str, ranks: RankWatch | None = None
    ) -> None:
        self.address = address
        self._process = process
        self._ranks = ranks

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process.returncode is None else None

    async def wait(self) -> int:
        return await self._process.wait()

    async def lost(self) -> str:
        if self._ranks is not None:
            return await self._ranks.lost()
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)
        if self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        if self._ranks is not None:
            self._ranks.kill()

    async def cleared(self, timeout_s: float) -> None:
        if self._ranks is not None:
            await self._ranks.cleared(timeout_s)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


async def spawn(spec: LaunchSpec, hosts: PrestartedHosts | None = None) -> SubprocessHandle:
    """Start a runner process, or take one of `hosts`: it listens at `spec.address`, with `spec.gpus` visible.

    Raises `OSError`.
    """
    encoded = msgspec.json.encode(spec)
    if spec.command:  # ranks inherit the environment; standard input reaches only one of them
        variables = {SPEC_VARIABLE: encoded.decode()}
        process = await start_host(gpus=spec.gpus, command=spec.command, **variables)
    else:
        taken = hosts.take(spec.gpus) if hosts is not None else None
        process = taken or await start_host(gpus=spec.gpus)
        assert process.stdin is not None
        process.stdin.write(encoded + b"\n")
    ranks = RankWatch(process.pid, launcher=bool(spec.command)) if spec.has_ranks else None
    return SubprocessHandle(process, spec.address, ranks)


class SubprocessLauncher:
    """Starts runners on this machine, each at a Unix socket with a name that no other start used.

    A directory that no longer takes a socket (it was deleted, or its disk is full) is replaced by another.
    """

    encrypted = False

    def __init__(self, hosts: PrestartedHosts | None = None) -> None:
        """`hosts`: taken by the first starts; the caller closes them."""
        self._hosts = hosts
        self._directories = [directory_for_sockets()]
        self._starts = itertools.count()

    async def start(self, spec: LaunchSpec) -> SubprocessHandle:
        try:
            _try_socket(self._directories[-1])
        except OSError as error:
            if error.errno in NOT_OF_THE_DIRECTORY:
                raise
            self._directories.append(directory_for_sockets())
            log.warning(
                "no socket can be made in %s (%s); the next is in %s",
                self._directories[-2],
                error.strerror,
                self._directories[-1],
            )
        path = self._directories[-1] / f"runner-{spec.index}-{next(self._starts)}.sock"
        return await spawn(msgspec.structs.replace(spec, address=str(UnixAddress(str(path)))), self._hosts)

    def close(self) -> None:
        for directory in self._directories:
            shutil.rmtree(directory, ignore_errors=True)


def directory_for_sockets() -> Path:
    """A new directory that only this user can enter, and in which a socket was made. Raises `OSError`."""
    failure = OSError("there is no temporary directory")
    for parent in _temporary_directories():
        try:
            directory = Path(tempfile.mkdtemp(prefix="trtllm-openai-", dir=parent))
        except OSError as error:
            failure = error
            continue
        try:
            _try_socket(directory)
        except OSError as error:
            failure = error
            directory.rmdir()
            continue
        return directory
    raise failure


def _temporary_directories() -> Iterator[str]:
    with contextlib.suppress(OSError):
        own = tempfile.gettempdir()
        if len(os.fsencode(own)) <= LONGEST_TEMPORARY:
            yield own
    yield from OTHER_TEMPORARIES


def _try_socket(directory: Path) -> None:
    """Raise `OSError` if no socket can be made in `directory`."""
    path = directory / "try.sock"
    path.unlink(missing_ok=True)
    listen(UnixAddress(str(path)), 1).close()
    path.unlink()
