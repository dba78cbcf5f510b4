"""`python -m trtllm_openai.engine_host [ENGINE]`: a runner process, which is told a `LaunchSpec`.

ENGINE is imported while the specification is awaited (`engine_host.prestart`).

Exit status: 0 stopped or owner gone, 1 the engine failed, 3 it cannot start as configured.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys

import msgspec

from trtllm_openai.config import Settings
from trtllm_openai.engine_host.frontends import Frontends
from trtllm_openai.engine_host.loader import load_engine
from trtllm_openai.engine_host.loop import RunnerLoop
from trtllm_openai.engine_host.messages import CANNOT_START, SPEC_VARIABLE, LaunchSpec
from trtllm_openai.engine_host.node_files import node_files
from trtllm_openai.engine_host.prestart import import_engine
from trtllm_openai.errors import CheckpointError, ConfigError
from trtllm_openai.processes.mpi import mpi_rank
from trtllm_openai.telemetry.logs import setup_logging

log = logging.getLogger("trtllm_openai.engine_host")

SHUTDOWN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0
"""Seconds that a frontend has to read what it was sent."""
SHORTAGES = frozenset(
    {errno.EAGAIN, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EROFS}
)
"""Errors of the machine that may have passed when the runner is started again."""


def read_spec(fd: int) -> LaunchSpec:
    """The specification from the environment, if it is there, else the first line of `fd`.

    The line is read unbuffered so that `fd` stays pollable; the variable is removed: it holds a secret.
    Raises `EOFError` if `fd` ends before.
    """
    from_environment = os.environ.pop(SPEC_VARIABLE, None)
    if from_environment is not None:
        return msgspec.json.decode(from_environment, type=LaunchSpec)
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(fd, 65536)
        if not piece:
            raise EOFError("the owning process ended before it sent the launch specification")
        line += piece
    return msgspec.json.decode(bytes(line), type=LaunchSpec)


def follow(spec: LaunchSpec) -> int:
    """Run a rank other than the leader: load, and wait until the leader ends."""
    settings = Settings.model_validate(spec.settings)
    setup_logging(settings.log_level, f"runner-{spec.index} follower", settings.log_format)
    try:
        load_engine(settings, node_files(settings, spec.files, lambda *_: None), lambda *_: None)
    except (CheckpointError, ConfigError) as error:  # of this machine: the leader may be on another
        log.error("rank %s cannot start: %s", mpi_rank(), error)
        return CANNOT_START
    return 0


def main() -> int:
    """Run one runner to its end."""
    owner_fd = sys.stdin.fileno()
    if len(sys.argv) > 1:
        import_engine(sys.argv[1])
    try:
        spec = read_spec(owner_fd)
    except EOFError:  # nobody waits for this process
        return 0
    if spec.command and mpi_rank():
        return follow(spec)
    settings = Settings.model_validate(spec.settings)
    setup_logging(settings.log_level, f"runner-{spec.index}", settings.log_format)
    try:
        frontends = Frontends(spec.address, owner_fd, spec.secret, spec.identity)
    except OSError as error:
        log.error("runner %d cannot listen at %s: %s", spec.index, spec.address, error)
        return 1
    except ValueError as error:
        log.error("runner %d does not listen: %s", spec.index, error)
        return CANNOT_START
    loop = RunnerLoop(frontends, spec.orphan_timeout_s)
    signal.signal(signal.SIGTERM, lambda *_: loop.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides
    loaded = False
    try:
        loop.progress(0.0, "starting")
        files = node_files(settings, spec.files, loop.progress)
        engine = load_engine(settings, files, loop.progress, spec.index)
        loaded = True
        loop.run(engine)
        engine.shutdown(SHUTDOWN_TIMEOUT_S)
    except (CheckpointError, ConfigError) as error:
        loop.fail(str(error), final=True)
        return CANNOT_START
    except Exception as error:
        log.exception("runner %d ends", spec.index)
        passes = loaded or isinstance(error, MemoryError) or getattr(error, "errno", None) in SHORTAGES
        loop.fail(f"{type(error).__name__}: {error}", final=not passes)
        return 1 if passes else CANNOT_START
    finally:
        frontends.close(CLOSE_TIMEOUT_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
