"""What the Ray launcher runs on a node: an actor around one engine host process. Does not import Ray.

The actor holds the runner's resources, starts the process that every launcher starts, and owns its standard
input: when the actor ends, with its node or by Ray, so does the process. No token passes through it.
"""

from __future__ import annotations

import socket

import msgspec

from trtllm_openai.engine_host.messages import LaunchSpec
from trtllm_openai.processes.address import TcpAddress
from trtllm_openai.runners.launcher import SubprocessHandle, spawn


class EngineHost:
    """One runner process of this node. Its methods are called over Ray."""

    def __init__(self) -> None:
        self._handle: SubprocessHandle | None = None

    async def start(self, encoded: bytes, host: str) -> tuple[str, int]:
        """Start the process that a `LaunchSpec` (JSON) tells of, at a port of `host`, this node's address.

        Returns its address and process id. Raises `OSError`.
        """
        spec = msgspec.json.decode(encoded, type=LaunchSpec)
        with socket.create_server((host, 0)) as free:
            port = free.getsockname()[1]
        address = str(TcpAddress(host, port))
        self._handle = await spawn(msgspec.structs.replace(spec, address=address))
        return address, self._handle.pid or 0

    async def pid(self) -> int:
        """Its process id; 0 once it has ended."""
        return self._started.pid or 0

    async def wait(self) -> int:
        """See `RunnerHandle`."""
        return await self._started.wait()

    async def lost(self) -> str:
        """See `RunnerHandle`."""
        return await self._started.lost()

    async def terminate(self) -> None:
        """See `RunnerHandle`."""
        self._started.terminate()

    async def kill(self, timeout_s: float) -> None:
        """Kill it, and wait so many seconds until nothing of it holds a GPU."""
        self._started.kill()
        await self._started.wait()
        await self._started.cleared(timeout_s)

    @property
    def _started(self) -> SubprocessHandle:
        assert self._handle is not None
        return self._handle
