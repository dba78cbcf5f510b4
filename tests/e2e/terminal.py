"""A program at a pseudo-terminal: what it shows, and what is typed."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import python_path

PATIENCE_S = 60.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")


class Terminal:
    """A started program. `screen` is everything it has shown, without colours and cursor movements."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self._pid = pid
        self._descriptor = descriptor
        self._raw = b""
        self._seen = 0

    @property
    def screen(self) -> str:
        return _ESCAPES.sub("", self._raw.decode(errors="replace")).replace("\r\n", "\n")

    def type(self, text: str) -> None:
        """Press keys; a line ends with `\\n`, Ctrl-C is `\\x03` and Ctrl-D `\\x04`."""
        os.write(self._descriptor, text.encode())

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until it shows something new that matches."""
        until = time.monotonic() + PATIENCE_S
        while not (found := re.compile(pattern).search(self.screen, self._seen)):
            assert time.monotonic() < until, f"{pattern!r} is not in\n{self.screen}"
            assert self._read(), f"it ended without {pattern!r}:\n{self.screen}"
        self._seen = found.end()
        return found

    def wait(self) -> int:
        """Wait for its end; returns the exit status."""
        until = time.monotonic() + PATIENCE_S
        while self._read():
            assert time.monotonic() < until, f"it does not end:\n{self.screen}"
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return os.waitstatus_to_exitcode(status)

    def _read(self) -> bool:
        """Take what it has shown, for a moment. False at its end."""
        if select.select([self._descriptor], [], [], 0.1)[0]:
            try:
                data = os.read(self._descriptor, 65536)
            except OSError:  # EIO: the other side was closed
                return False
            self._raw += data
            return bool(data)
        return True

    def close(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._descriptor)


@contextmanager
def run(*arguments: str, env: dict[str, str] | None = None) -> Iterator[Terminal]:
    """`trtllm-openai` with these arguments at a terminal of 110 columns."""
    variables = {**os.environ, "PYTHONPATH": python_path(), "COLUMNS": "110", "TERM": "xterm", **(env or {})}
    command = [sys.executable, "-m", "trtllm_openai", *arguments]
    pid, descriptor = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where the tests run in the background
        os.execvpe(command[0], command, variables)
    terminal = Terminal(pid, descriptor)
    try:
        yield terminal
    finally:
        terminal.close()
