"""The beginning of `serve`: engine hosts are started first, and import the engine beside what follows.

    settings ─▶ start engine hosts ─▶ import the HTTP side ─▶ find the model, read the tokenizer ─▶ launch
                        └▶ import the engine (torch: a second) ─▶ wait for the launch ────────────────┴▶ load

The imports of this module come before all that, and have to be few: the rest is in `serve.command`. Hosts
that no launch has taken are ended here, whatever fails or interrupts start-up.
"""

from __future__ import annotations

import asyncio
import gc
import resource

import uvloop

from trtllm_openai.config import Settings
from trtllm_openai.engine_host.gpus import assign_gpus, gpus_per_replica
from trtllm_openai.engine_host.prestart import PrestartedHosts
from trtllm_openai.errors import ConfigError


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status. Raises `ConfigError` before it serves."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))  # a connection is a file descriptor
    loop = uvloop.new_event_loop if settings.http_workers == 1 else None  # the supervisor serves no HTTP
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(_run(settings))


async def _run(settings: Settings) -> int:
    hosts = PrestartedHosts()
    try:
        await hosts.start(settings.engine, first_gpus(settings))
        gc.disable()  # all that is imported stays
        from trtllm_openai.serve import command

        gc.enable()
        await asyncio.sleep(0)  # where an interrupt of the import takes effect
        return await command.serve(settings, hosts)
    finally:
        await hosts.close()


def first_gpus(settings: Settings) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of the runners that are launched on this machine at first, their least number.

    Empty where they are on other machines, and if there are too few GPUs, which opening the model reports.
    """
    if settings.runners.launcher != "local":
        return []
    least = settings.model_copy(update={"replicas": settings.replica_range.min})
    try:
        return assign_gpus(least, gpus_per_replica(settings))
    except ConfigError:
        return []
