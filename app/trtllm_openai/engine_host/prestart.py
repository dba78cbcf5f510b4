"""Engine hosts that are started before it is known what they will run.

The import of torch takes a second. `serve` therefore starts the hosts of the first launches at its very
beginning: each imports its engine, and then waits for its `LaunchSpec`, while the process that owns it
imports the HTTP side, finds the model and reads the tokenizer. A launch takes a host that waits, and starts
one if there is none.

A host that no launch took ends with `PrestartedHosts.close`, and with its owner, however that ends: like
every host it is told by the end of its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Iterable, Sequence

from trtllm_openai.processes.environment import child_environment, module

log = logging.getLogger(__name__)

ENGINES = {"synthetic": "trtllm_openai.engines.synthetic", "torch": "trtllm_openai.engines.torch.loader"}
"""Modules to import, of the engines whose import depends on nothing that only the specification tells. That
of TensorRT-LLM initializes MPI, and mpirun may have to start its host."""


def import_engine(name: str) -> None:
    """Import one of `ENGINES`, in a host that waits. A failure is left to `load_engine`, which reports it.

    The half a million objects of torch are not looked at by the garbage collector, now or later.
    """
    gc.disable()
    with contextlib.suppress(Exception):
        importlib.import_module(ENGINES[name])
    gc.freeze()
    gc.enable()


async def start_host(
    *arguments: str, gpus: str | None, command: Sequence[str] = (), **variables: str
) -> Process:
    """Start an engine host, the leader of a process group, with `gpus` as CUDA_VISIBLE_DEVICES unless None.

    `command` is prepended to its command line. Raises `OSError`.
    """
    if gpus is not None:
        variables["CUDA_VISIBLE_DEVICES"] = gpus
    return await asyncio.create_subprocess_exec(
        *command,
        *module("trtllm_openai.engine_host", *arguments),
        stdin=asyncio.subprocess.PIPE,
        start_new_session=True,
        env=child_environment(**variables),
    )


class PrestartedHosts:
    """Owns hosts until they are taken. Must be closed."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str | None, Process]] = []

    async def start(self, engine: str, gpus: Iterable[str | None]) -> None:
        """Start a host for each of `gpus`, its CUDA_VISIBLE_DEVICES, if `engine` is one of `ENGINES`.

        What fails here is left to the launches, which report it.
        """
        if engine not in ENGINES:
            return
        for visible in gpus:
            try:
                process = await start_host(engine, gpus=visible)
            except OSError as error:
                log.debug("no engine host is started ahead: %s", error)
                return
            self._waiting.append((visible, process))

    def take(self, gpus: str | None) -> Process | None:
        """A host to which these GPUs are visible and that waits for a line with its specification on its
        standard input. It belongs to the caller now. None if there is none.
        """
        for index, (visible, process) in enumerate(self._waiting):
            if visible == gpus and process.returncode is None:
                del self._waiting[index]
                return process
        return None

    async def close(self) -> None:
        """End the hosts that were not taken."""
        for _, process in self._waiting:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        self._waiting = []
