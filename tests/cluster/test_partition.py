"""A node whose link is cut in the middle of streams, and works again, soon or late."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.cluster import networks
from tests.cluster.clusters import SLOW, Streams, ready, runners, served, stream, until

pytestmark = pytest.mark.slow


@pytest.fixture
def address() -> Iterator[str]:
    pytest.importorskip("ray", reason="make cluster installs it")
    if not networks.can_make():
        pytest.skip("network namespaces need root")
    with networks.cluster() as found:
        yield found


def test_a_partition_that_heals(address: str) -> None:
    """For 5 s nobody reaches a node: streams pause and are complete. Then for longer than `stall_timeout`:
    its streams end, the other runner serves, and when the node is back there are two again."""
    flags = (*SLOW, "--stall-timeout", "12")
    with served(address, *flags) as server:
        until(lambda: ready(server) == 2)
        nodes = {runner["node"] for runner in runners(server)}
        assert nodes == {networks.address_of(node) for node in networks.NODES}
        short = Streams(server, 4, 300)
        networks.cut(1)
        time.sleep(5)
        networks.join(1)
        assert [failed for _, failed in short.join()] == [""] * 4
        assert {runner["node"] for runner in runners(server)} == nodes

        long = Streams(server, 4, 1500)
        networks.cut(1)
        until(lambda: ready(server) == 1)
        until(lambda: len(long.results) == 2)  # those of the node that is cut off
        assert all(failed for _, failed in long.results), long.results
        assert stream(server, 20)[1] == ""
        networks.join(1)
        until(lambda: ready(server) == 2, 180)
        assert sorted(bool(failed) for _, failed in long.join()) == [False, False, True, True]
        assert [stream(server, 20)[1] for _ in range(4)] == [""] * 4
