"""Runners on the nodes of a Ray cluster: `runners.launcher: ray`. Without that, Ray is not imported.

A runner is an actor (`ray_host`) in a placement group of its own with one bundle, so that all of its GPUs are
on one node; a runner whose node is lost is placed anew by its next start. Ray carries the `LaunchSpec` to the
node and the exit status back. Prompts and tokens go over TCP from this process to the runner's, authenticated
and with TLS: the key pair of a launch reaches the node with the `LaunchSpec`, so Ray's own traffic is to be
trusted, or encrypted by RAY_USE_TLS.

Runners of a pool that several front machines share (`runners.pool`) are detached: named after their secret in
the namespace of the pool, they outlive who started them, and end when nobody has been connected for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import signal
import threading
from collections.abc import Iterable
from typing import Any

import msgspec

from trtllm_openai.engine_host.messages import LaunchSpec
from trtllm_openai.runners.ray_host import EngineHost
from trtllm_openai.runners.state import Endpoint

log = logging.getLogger(__name__)

NAMESPACE = "trtllm-openai"
PLACE_TIMEOUT_S = 60.0
"""Seconds in which a node must have the resources of a runner; then its start failed, and is tried again."""
LINGER_S = 10.0
"""Seconds that the actor of an ended runner of a shared pool stays, for who asks how it ended."""
NO_GPUS = "the Ray cluster has no GPU: torch.device: cpu needs none, cuda waits until a node has one"
KILL_TIMEOUT_S = 5.0
"""Seconds that a node gets to answer; then it is taken to be gone."""


class RayHandle:
    """A runner on a node. Implements `RunnerHandle`."""

    def __init__(self, ray: Any, actor: Any, group: Any, address: str, pid: int) -> None:
        self.address = address
        self._ray = ray
        self._actor = actor
        self._group = group
        self._pid: int | None = pid
        self._gone = asyncio.Event()
        self._killing: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._pid

    async def wait(self) -> int:
        """-9 if its node or its actor is lost, or once it was killed and nothing more is heard."""
        ended = asyncio.ensure_future(_answer(self._actor.wait.remote()))
        gone = asyncio.create_task(self._gone.wait())
        try:
            await asyncio.wait({ended, gone}, return_when=asyncio.FIRST_COMPLETED)
            status = -signal.SIGKILL
            if ended.done():
                with contextlib.suppress(self._ray.exceptions.RayError):
                    status = ended.result()
            return int(status)
        finally:
            self._pid = None
            ended.cancel()
            gone.cancel()

    async def lost(self) -> str:
        try:
            return str(await _answer(self._actor.lost.remote()))
        except self._ray.exceptions.RayError:  # `wait` says it
            never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            return await never

    def terminate(self) -> None:
        self._actor.terminate.remote()

    def kill(self) -> None:
        if self._killing is None:
            self._killing = asyncio.create_task(self._kill())

    async def cleared(self, timeout_s: float) -> None:
        if self._killing is not None:
            await asyncio.wait({self._killing}, timeout=timeout_s + KILL_TIMEOUT_S)

    async def _kill(self) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError, TimeoutError):
            async with asyncio.timeout(KILL_TIMEOUT_S):  # a node that is lost does not answer
                await _answer(self._actor.kill.remote(KILL_TIMEOUT_S))
        self._gone.set()
        await asyncio.to_thread(_remove, self._ray, self._actor, self._group)


class RayLauncher:
    """Starts runners on a Ray cluster. Implements `Launcher`, and `SharedLauncher` for a shared pool."""

    encrypted = True

    def __init__(
        self, address: str | None, *, gpus: int, cpus: float, pool: str | None = None, may_wait: bool = True
    ) -> None:
        """`address`: of the cluster; None: $RAY_ADDRESS, or the one of this machine. `gpus` and `cpus` are
        those of a runner. `pool`: name of the shared pool. `may_wait`: whether GPUs are waited for where no
        node has any: one may be added.

        Raises `ImportError` without Ray.
        """
        import ray

        self._ray = ray
        self._address = address
        self._bundle = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
        self._gpus = gpus
        self._cpus = cpus
        self._may_wait = may_wait
        self._joining = asyncio.Lock()
        self._pool = pool
        self._namespace = NAMESPACE if pool is None else f"{NAMESPACE}:{pool}"
        self._prefix = f"{self._namespace}:runner:"

    @property
    def ray(self) -> Any:
        """The module."""
        return self._ray

    async def join(self) -> None:
        """Make this process part of the cluster, if it is not yet. Raises `OSError` if there is none."""
        async with self._joining:
            if not self._ray.is_initialized():
                await asyncio.to_thread(self._join)
                _take_signals_back()

    async def start(self, spec: LaunchSpec) -> RayHandle:
        ray = self._ray
        await self.join()
        if self._gpus and not self._may_wait and not await asyncio.to_thread(self._has_gpus):
            raise OSError(NO_GPUS)
        group = actor = None
        name = self._name(spec.secret) if self._pool is not None else ""
        kept = {"name": name, "lifetime": "detached"} if name else {}
        try:
            group = await asyncio.to_thread(
                ray.util.placement_group, [self._bundle], strategy="STRICT_PACK", **kept
            )
            async with asyncio.timeout(PLACE_TIMEOUT_S):
                await _answer(group.ready())
            actor = self._actor(group, kept)
            async with asyncio.timeout(PLACE_TIMEOUT_S):
                host = await _answer(actor.node_address.remote())
                address, pid = await _answer(actor.start.remote(msgspec.json.encode(spec), host))
        except BaseException as error:
            await asyncio.shield(asyncio.to_thread(_remove, ray, actor, group))
            if isinstance(error, TimeoutError):
                raise OSError(f"no node of the Ray cluster has {self._bundle} free") from None
            if isinstance(error, ray.exceptions.RayError):
                raise OSError(f"Ray: {error}") from None
            raise
        log.info("runner %d is placed at %s", spec.index, address)
        return RayHandle(ray, actor, group, address, pid)

    async def find(self, endpoint: Endpoint) -> RayHandle:
        """See `SharedLauncher`."""
        ray, name = self._ray, self._name(endpoint.secret)
        await self.join()

        def look() -> tuple[Any, Any]:
            return ray.get_actor(name), ray.util.get_placement_group(name)

        try:
            actor, group = await asyncio.to_thread(look)
            async with asyncio.timeout(KILL_TIMEOUT_S):
                pid = await _answer(actor.pid.remote())
        except (ValueError, TimeoutError, ray.exceptions.RayError):
            raise OSError("it is gone") from None
        return RayHandle(ray, actor, group, endpoint.address, pid)

    async def sweep(self, endpoints: Iterable[Endpoint]) -> None:
        """See `SharedLauncher`."""
        await self.join()
        await asyncio.to_thread(self._sweep, {self._name(endpoint.secret) for endpoint in endpoints})

    def _sweep(self, known: set[str]) -> None:
        for one in self._ray.util.placement_group_table().values():
            name = one["name"]
            if name.startswith(self._prefix) and name not in known and one["state"] != "REMOVED":
                log.warning("a start of a runner was broken off; what it held is given back")
                with contextlib.suppress(ValueError):  # it is gone since
                    _remove(self._ray, None, self._ray.util.get_placement_group(name))

    def _name(self, secret: str) -> str:
        """The name of a runner's actor and placement group."""
        return f"{self._prefix}{hashlib.sha256(secret.encode()).hexdigest()[:16]}"

    def close(self) -> None:
        if self._ray.is_initialized():
            self._ray.shutdown()

    def _has_gpus(self) -> bool:
        return bool(self._ray.cluster_resources().get("GPU"))

    def _join(self) -> None:
        try:
            self._ray.init(
                self._address or "auto",
                namespace=self._namespace,
                log_to_driver=True,
                logging_level="warning",
            )
        except ConnectionError as error:
            raise OSError(f"there is no Ray cluster: {error}") from None

    def _actor(self, group: Any, kept: dict[str, str]) -> Any:
        ray = self._ray

        class PlacedEngineHost(EngineHost):
            async def node_address(self) -> str:
                return str(ray.util.get_node_ip_address())

            async def start(self, encoded: bytes, host: str) -> tuple[str, int]:
                started = await super().start(encoded, host)
                if kept:
                    self._ending = asyncio.create_task(self._end())
                return started

            async def _end(self) -> None:
                await self.wait()
                await asyncio.sleep(LINGER_S)
                await asyncio.to_thread(
                    ray.util.remove_placement_group, ray.util.get_current_placement_group()
                )

        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, 0)
        options = {"num_cpus": self._cpus, "num_gpus": self._gpus, "scheduling_strategy": strategy}
        return ray.remote(PlacedEngineHost).options(max_restarts=0, **options, **kept).remote()


async def _answer(reference: Any) -> Any:
    return await asyncio.wrap_future(reference.future())


def _take_signals_back() -> None:
    """Ray's core takes SIGTERM for a crash: three seconds later it aborts the process, which may drain."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.getsignal(number))  # what Python knows, and the system no longer
            signal.siginterrupt(number, False)


def _remove(ray: Any, actor: Any, group: Any) -> None:
    """End an actor, and give back what it held."""
    with contextlib.suppress(Exception):  # it is gone, or the cluster is
        if actor is not None:
            ray.kill(actor)
    with contextlib.suppress(Exception):
        if group is not None:
            ray.util.remove_placement_group(group)
