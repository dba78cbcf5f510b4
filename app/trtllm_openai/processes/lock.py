"""A lock between processes, on a file that they share. The kernel releases it when its holder dies."""

from __future__ import annotations

import fcntl


class ProcessLock:
    """A context manager that excludes other processes, not threads of this one.

    A POSIX record lock belongs to the process. A flock would belong to the open file description, which
    children inherit, and would not exclude them.
    """

    def __init__(self, fd: int | None) -> None:
        """`fd`: descriptor of the file. None: no other process uses what the lock guards."""
        self._fd = fd

    def __enter__(self) -> None:
        if self._fd is not None:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)
