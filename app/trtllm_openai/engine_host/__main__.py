"""`python -m trtllm_openai.engine_host`: the ModelRunner process. Reads a `LaunchSpec` from standard input.

Exit status: 0 stopped or owner gone, 1 the engine failed, 3 it cannot start as configured.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trtllm_openai.config import Settings
from trtllm_openai.engine_host.frontends import Frontends
from trtllm_openai.engine_host.loader import load_engine
from trtllm_openai.engine_host.loop import RunnerLoop
from trtllm_openai.engine_host.messages import CANNOT_START, LaunchSpec
from trtllm_openai.errors import CheckpointError, ConfigError
from trtllm_openai.processes.mpi import mpi_rank
from trtllm_openai.telemetry.logs import setup_logging

log = logging.getLogger("trtllm_openai.engine_host")

SHUTDOWN_DEADLINE = 10.0
LAST_WORDS = 2.0
"""Seconds that a worker has to take what it was sent."""


def read_spec(fd: int) -> LaunchSpec:
    """Read the first line of `fd`, unbuffered so that the rest of the pipe stays pollable."""
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(fd, 65536)
        if not piece:
            raise SystemExit("the owning process ended before it sent the launch specification")
        line += piece
    return msgspec.json.decode(bytes(line), type=LaunchSpec)


def follow(spec: LaunchSpec) -> int:
    """A rank of an engine other than the one that leads: load, and wait until the leader ends."""
    settings = Settings.model_validate(spec.settings)
    setup_logging(settings.log_level, f"runner-{spec.index} follower", settings.log_format)
    load_engine(settings, spec.files, lambda *_: None)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one ModelRunner to its end."""
    parser = argparse.ArgumentParser(prog="python -m trtllm_openai.engine_host")
    parser.add_argument("--spec", type=Path, help="file with the LaunchSpec; default: standard input")
    arguments = parser.parse_args(argv)
    owner_fd = sys.stdin.fileno()
    if arguments.spec is None:
        spec = read_spec(owner_fd)
    else:
        spec = msgspec.json.decode(arguments.spec.read_bytes(), type=LaunchSpec)
        if mpi_rank():
            return follow(spec)
    settings = Settings.model_validate(spec.settings)
    setup_logging(settings.log_level, f"runner-{spec.index}", settings.log_format)
    workers = Frontends(spec.address, owner_fd)
    loop = RunnerLoop(workers)
    signal.signal(signal.SIGTERM, lambda *_: loop.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides
    loaded = False
    try:
        loop.progress(0.0, "starting")
        engine = load_engine(settings, spec.files, loop.progress)
        loaded = True
        loop.run(engine)
        engine.shutdown(SHUTDOWN_DEADLINE)
    except (CheckpointError, ConfigError) as error:
        loop.fail(str(error), final=True)
        return CANNOT_START
    except Exception as error:
        log.exception("runner %d ends", spec.index)
        loop.fail(f"{type(error).__name__}: {error}", final=not loaded)
        return 1 if loaded else CANNOT_START
    finally:
        workers.close(LAST_WORDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
