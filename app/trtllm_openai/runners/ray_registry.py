"""The registry of a shared pool as a detached actor of a Ray cluster, and the way to it.

It is found by its name in the namespace of the pool, outlives whoever made it, and is made again on another
node when its own is lost. It holds the keys of the runners, so that whoever may use the cluster may attach.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from trtllm_openai.runners.registry import Beat, Registry, View

NAME = "registry"
CALL_TIMEOUT_S = 3.0


class RegistryActor:
    """`Registry` with encoded messages, so that Ray pickles nothing but bytes."""

    def __init__(self, forgotten: bool) -> None:
        import ray

        made_again = ray.get_runtime_context().was_current_actor_reconstructed
        self._registry = Registry(forgotten=forgotten or made_again)

    def sync(self, beat: bytes) -> bytes:
        """See `Registry`."""
        return msgspec.msgpack.encode(self._registry.sync(msgspec.msgpack.decode(beat, type=Beat)))

    def leads(self, front: str, term: int) -> bool:
        """See `Registry`."""
        return self._registry.leads(front, term)

    def leave(self, front: str) -> int:
        """See `Registry`."""
        return self._registry.leave(front)


class RayRegistry:
    """Implements `membership.RegistryClient`. Its methods raise `OSError` when Ray does not answer."""

    def __init__(self, ray: Any, join: Callable[[], Awaitable[None]]) -> None:
        """`join`: makes this process part of the cluster, in the pool's namespace, if it is not yet."""
        self._ray = ray
        self._join = join
        self._actor: Any = None
        self._was_there = False

    async def sync(self, beat: Beat) -> View:
        answer = await self._call(lambda actor: actor.sync.remote(msgspec.msgpack.encode(beat)))
        self._was_there = True
        return msgspec.msgpack.decode(answer, type=View)

    async def leads(self, front: str, term: int) -> bool:
        return bool(await self._call(lambda actor: actor.leads.remote(front, term)))

    async def leave(self, front: str) -> int:
        return int(await self._call(lambda actor: actor.leave.remote(front)))

    async def remove(self) -> None:
        actor, self._actor = self._actor, None
        if actor is not None:
            await asyncio.to_thread(self._ray.kill, actor)

    async def _call(self, method: Callable[[Any], Any]) -> Any:
        await self._join()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                if self._actor is None:
                    self._actor = await asyncio.to_thread(self._find)
                return await asyncio.wrap_future(method(self._actor).future())
        except (self._ray.exceptions.RayError, ValueError, TimeoutError) as error:
            self._actor = None
            raise OSError(f"Ray: {error or type(error).__name__}") from None

    def _find(self) -> Any:
        options = {"name": NAME, "lifetime": "detached", "get_if_exists": True, "num_cpus": 0}
        actor = self._ray.remote(RegistryActor).options(max_restarts=-1, **options)
        return actor.remote(self._was_there)
