"""The actor around an engine host, as an object of this process: Ray adds nothing to it."""

import asyncio
import signal

import msgspec

from tests.unit.runners.test_pool import drain, request, run, spec, until
from tests.unit.runners.test_pool import pool as make_pool
from trtllm_openai.engine_host.messages import LaunchSpec
from trtllm_openai.processes.authentication import new_secret
from trtllm_openai.processes.tls import new_identity
from trtllm_openai.runners.ray_host import EngineHost


class ActorHandle:
    """An `EngineHost` as a `RunnerHandle`."""

    def __init__(self, host: EngineHost, address: str, pid: int) -> None:
        self.host, self.address, self.pid = host, address, pid
        self.killing: asyncio.Task[None] | None = None

    async def wait(self) -> int:
        return await self.host.wait()

    async def lost(self) -> str:
        return await self.host.lost()

    def terminate(self) -> None:
        self.killing = asyncio.create_task(self.host.terminate())

    def kill(self) -> None:
        self.killing = asyncio.create_task(self.host.kill(1.0))

    async def cleared(self, timeout_s: float) -> None:
        assert self.killing is not None
        await self.killing


class ActorLauncher:
    """Starts runners through `EngineHost`. Implements `Launcher`."""

    encrypted = True

    async def start(self, spec: LaunchSpec) -> ActorHandle:
        host = EngineHost()
        return ActorHandle(host, *await host.start(msgspec.json.encode(spec), "127.0.0.1"))

    def close(self) -> None:
        """Nothing is shared."""


def test_an_actor_runs_a_runner() -> None:
    async def test() -> None:
        async with make_pool(launcher=ActorLauncher()) as (subject, _):
            (runner,) = subject.runners
            assert runner.endpoint is not None
            assert runner.endpoint.address.startswith("tcp://127.0.0.1:")
            assert await drain(subject.submit([request(subject, 5)]))
            assert runner.pid is not None
            await subject.restart(0, 1.0)
            await until(lambda: subject.restarts == 1 and subject.status().ready == 1)
            assert await drain(subject.submit([request(subject, 5)]))

    run(test())


def test_a_killed_process_is_waited_for() -> None:
    async def test() -> None:
        host = EngineHost()
        told = msgspec.structs.replace(spec(), secret=new_secret(), identity=new_identity())
        await host.start(msgspec.json.encode(told), "127.0.0.1")
        await host.kill(1.0)
        assert await host.wait() == -signal.SIGKILL

    run(test())
