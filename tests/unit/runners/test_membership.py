"""Front machines that share real runner processes, through a registry in this process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

import msgspec
import pytest

from tests.unit.runners.test_pool import arrival, drain, request, run, spec, until
from tests.unit.runners.test_ray_host import ActorHandle, ActorLauncher
from trtllm_openai.engine_host.messages import LaunchSpec
from trtllm_openai.runners import RunnerPool, membership, registry
from trtllm_openai.runners.launcher import Launcher
from trtllm_openai.runners.membership import Membership
from trtllm_openai.runners.process import Running
from trtllm_openai.runners.ray_host import EngineHost
from trtllm_openai.runners.registry import Beat, Registry, View
from trtllm_openai.runners.shared import SharedPool
from trtllm_openai.runners.state import Endpoint


class Cluster:
    """What front machines share: a registry, which can be out of reach, and runners by their address."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.cut_off: set[str] = set()
        self.removed: list[str] = []
        self.handles: dict[str, ActorHandle] = {}
        self.starts: list[int] = []


class Client:
    """Implements `RegistryClient`."""

    def __init__(self, cluster: Cluster, front: str) -> None:
        self._cluster = cluster
        self._front = front

    def _reached(self) -> Registry:
        if self._front in self._cluster.cut_off:
            raise OSError("no route to host")
        return self._cluster.registry

    async def sync(self, beat: Beat) -> View:
        return self._reached().sync(beat)

    async def leads(self, front: str, term: int) -> bool:
        return self._reached().leads(front, term)

    async def leave(self, front: str) -> int:
        return self._reached().leave(front)

    async def remove(self) -> None:
        self._cluster.removed.append(self._front)


class ClusterLauncher(ActorLauncher):
    """Implements `SharedLauncher`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def start(self, spec: LaunchSpec) -> ActorHandle:
        self._cluster.starts.append(spec.index)
        handle = await super().start(spec)
        self._cluster.handles[handle.address] = handle
        return handle

    async def find(self, endpoint: Endpoint) -> ActorHandle:
        found = self._cluster.handles.get(endpoint.address)
        if found is None:
            raise OSError("it is gone")
        return ActorHandle(found.host, found.address, found.pid)

    async def sweep(self, endpoints: Iterable[Endpoint]) -> None:
        """Nothing is left behind."""


def front(cluster: Cluster, name: str, model: str = "m", replicas: int = 2) -> SharedPool:
    def make(
        changed: Callable[[], None], launcher: Launcher, running: Mapping[int, Running], wanted: int
    ) -> RunnerPool:
        return RunnerPool(
            [msgspec.structs.replace(spec(itl=0.01), orphan_timeout_s=1.0)] * replicas,
            load_timeout=30.0,
            stall_timeout=30.0,
            retry_interval=60.0,
            on_change=changed,
            launcher=launcher,
            running=running,
        )

    member = Membership(name, Client(cluster, name), ClusterLauncher(cluster), make, {"model": model})
    return SharedPool(member, replicas, stall_timeout=30.0, on_change=lambda: None, affinity=True)


@asynccontextmanager
async def fronts(cluster: Cluster, *names: str) -> AsyncIterator[list[SharedPool]]:
    pools = [front(cluster, name) for name in names]
    try:
        for pool in pools:
            pool.start()
            await until(lambda pool=pool: pool.status().ready == 2)  # type: ignore[misc]  # mypy infers no default
        yield pools
    finally:
        for pool in pools:
            await pool.stop()


def endpoints(pool: SharedPool) -> list[Endpoint | None]:
    return [state.endpoint for state in pool.report_now().runners]


def vanish(pool: SharedPool) -> None:
    """The front machine is gone, with its connections, and has said nothing."""
    member = pool._membership
    assert member._keeper is not None
    member._keeper.cancel()
    for runner in pool.runners:
        runner.disconnect("gone", lost=False)
    if member._leading is not None:
        for one in member._leading.runners:
            one._released = True
            assert one._keeper is not None
            one._keeper.cancel()


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (registry, membership):
        monkeypatch.setattr(module, "SYNC_S", 0.05)
        monkeypatch.setattr(module, "LEASE_S", 1.0)
    monkeypatch.setattr(membership, "FENCE_S", 0.5)


async def ended(cluster: Cluster) -> None:
    """Wait until no runner process is left."""
    await asyncio.gather(*(one.host.wait() for one in cluster.handles.values()))


def test_a_second_front_machine_attaches_and_the_last_one_ends_the_runners() -> None:
    async def test() -> None:
        cluster = Cluster()
        async with fronts(cluster, "a1", "b2") as (first, second):
            streams = [pool.submit([request(pool, 30)]) for pool in (first, second)]
            for stream in streams:
                assert (await drain(stream))[-1].finish_reason == "length"
            assert endpoints(first) == endpoints(second)
            assert second.restarts == 0
            streams = [second.submit([request(second, 100)])]
            await first.stop()  # which leads
            assert (await drain(streams[0]))[-1].finish_reason == "length"
            assert cluster.removed == []
        assert cluster.removed == ["b2"]
        assert sorted(cluster.starts) == [0, 1]
        await ended(cluster)

    run(test())


def test_when_the_leader_vanishes_another_takes_its_runners_over() -> None:
    async def test() -> None:
        cluster = Cluster()
        async with fronts(cluster, "a1", "b2") as (first, second):
            held = second.submit([request(second, 300)])
            await arrival(held)
            vanish(first)
            await until(lambda: second._membership._leading is not None)
            leading = second._membership._leading
            assert leading is not None
            await until(lambda: leading.status().ready == 2)
            assert (await drain(held))[-1].finish_reason == "length"
            assert sorted(cluster.starts) == [0, 1]
            cluster.handles[leading.states()[0].endpoint.address].host._started.kill()  # type: ignore[union-attr]
            await until(lambda: len(cluster.starts) == 3 and second.status().ready == 2)
            await first.stop()

    run(test())


def test_orders_reach_the_one_that_leads() -> None:
    async def test() -> None:
        cluster = Cluster()
        async with fronts(cluster, "a1", "b2") as (first, second):
            await second.restart(1, 5.0)
            await until(lambda: cluster.starts[2:] == [1] and second.status().ready == 2)
            with pytest.raises(LookupError):
                await second.restart(7, 5.0)
            address = second.report_now().runners[0].endpoint.address  # type: ignore[union-attr]
            second.report_silence("a worker", address, "it says nothing", 8.0)
            await until(lambda: first.report_now().runners[0].state == "unresponsive")
            second.forget_observer("a worker")
            await until(lambda: first.report_now().runners[0].state == "ready")

    run(test())


def test_one_that_is_cut_off_goes_on_serving_and_leads_no_more() -> None:
    async def test() -> None:
        cluster = Cluster()
        async with fronts(cluster, "a1", "b2") as (first, second):
            cluster.cut_off.add("a1")
            await until(lambda: second._membership._leading is not None)
            assert first._membership._leading is None  # before that
            assert (await drain(first.submit([request(first, 20)])))[-1].finish_reason == "length"
            await second.restart(0, 5.0)
            await until(lambda: len(cluster.starts) == 3 and second.status().ready == 2)
            cluster.cut_off.clear()
            await until(lambda: first.status().ready == 2)
            await until(lambda: endpoints(first) == endpoints(second))
            assert first._membership._leading is None

    run(test())


def test_a_registry_that_was_lost_is_told_who_leads() -> None:
    async def test() -> None:
        cluster = Cluster()
        async with fronts(cluster, "a1", "b2") as (first, second):
            cluster.registry = Registry(forgotten=True)
            await until(lambda: cluster.registry._report is not None)
            await asyncio.sleep(0.3)
            assert first._membership._leading is not None
            assert second._membership._leading is None
            assert sorted(cluster.starts) == [0, 1]

    run(test())


def test_other_settings_are_refused_by_name() -> None:
    async def test() -> None:
        cluster = Cluster()
        async with fronts(cluster, "a1"):
            other = front(cluster, "b2", model="other")
            other.start()
            await until(lambda: other.status().failed)
            assert "other settings: model" in other.status().reason
            await other.stop()
            assert cluster.removed == []

    run(test())


def test_runners_end_when_every_front_machine_has_vanished() -> None:
    async def test() -> None:
        cluster = Cluster()
        async with fronts(cluster, "a1") as (only,):
            vanish(only)
            await ended(cluster)
            cluster.registry.leave("a1")

    run(test())


def test_a_host_is_asked_for_its_process() -> None:
    async def test() -> None:
        cluster = Cluster()
        async with fronts(cluster, "a1") as (only,):
            for one in cluster.handles.values():
                assert await one.host.pid() == one.pid
                assert isinstance(one.host, EngineHost)
            assert [state.pid for state in only.report_now().runners] == [
                one.pid for one in cluster.handles.values()
            ]

    run(test())
