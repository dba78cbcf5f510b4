"""A Ray cluster of three nodes with addresses and networks of their own on this machine. Needs root.

The head is in the network of the machine, each of two nodes in a network namespace; a bridge joins them. The
link of a node can be cut and joined again, which no process is told of.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

NETWORK = "10.83.0"
HEAD = f"{NETWORK}.1"
PORT = 6399
BRIDGE = "trtllm-b"
NODES = (1, 2)
RAY = Path(sys.executable).with_name("ray")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def can_make() -> bool:
    """Whether this machine lets us make networks."""
    if os.geteuid() or shutil.which("ip") is None:
        return False
    try:
        _ip("link", "add", BRIDGE, "type", "bridge")
    except subprocess.CalledProcessError:
        return False
    _ip("link", "del", BRIDGE)
    return True


def address_of(node: int) -> str:
    return f"{NETWORK}.1{node}"


def cut(node: int) -> None:
    """From now on nothing reaches a node, nor leaves it."""
    _ip("link", "set", f"trtllm-v{node}", "down")


def join(node: int) -> None:
    """The link of a node works again."""
    _ip("link", "set", f"trtllm-v{node}", "up")


@contextmanager
def networks() -> Iterator[None]:
    """A bridge with an address of this machine, and a namespace for each node."""
    with ExitStack() as undo:
        _ip("link", "add", BRIDGE, "type", "bridge")
        undo.callback(_ip, "link", "del", BRIDGE)
        _ip("addr", "add", f"{HEAD}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for node in NODES:
            name, here, there = f"trtllm-n{node}", f"trtllm-v{node}", f"trtllm-w{node}"
            _ip("netns", "add", name)
            undo.callback(_ip, "netns", "del", name)
            undo.callback(_end_all, name)
            _ip("link", "add", here, "type", "veth", "peer", "name", there)
            undo.callback(_ip, "link", "del", here)
            _ip("link", "set", there, "netns", name)
            _ip("link", "set", here, "master", BRIDGE, "up")
            for words in (
                ("addr", "add", f"{address_of(node)}/24", "dev", there),
                ("link", "set", there, "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("netns", "exec", name, "ip", *words)
        yield


def _end_all(name: str) -> None:
    """Kill what still runs in a namespace: a node that was cut off does not notice the end of its cluster."""
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True).stdout
    for pid in map(int, listed.split()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def cluster() -> Iterator[str]:
    """The address of a cluster with a head without resources and two nodes with room for a runner each.

    A node that nobody reaches is not given up within a minute: it would have to be started again.
    """
    directory = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    environment = os.environ | {"RAY_health_check_failure_threshold": "20"}
    head = ("--head", f"--node-ip-address={HEAD}", f"--port={PORT}", "--num-cpus=0", "--block")
    command = [str(RAY), "start", *head, "--include-dashboard=false", f"--temp-dir={directory}"]
    with networks():
        process = subprocess.Popen(
            [*command, "--disable-usage-stats"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _wait_for_head()
            for node in NODES:
                inside = ("ip", "netns", "exec", f"trtllm-n{node}")
                own = (f"--address={HEAD}:{PORT}", f"--node-ip-address={address_of(node)}", "--num-cpus=1")
                subprocess.run(
                    [*inside, str(RAY), "start", *own, "--disable-usage-stats"],
                    env=environment,
                    check=True,
                    capture_output=True,
                    timeout=90,
                )
            yield f"{HEAD}:{PORT}"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            shutil.rmtree(directory, ignore_errors=True)


def _wait_for_head() -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection((HEAD, PORT), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the head did not start"
            time.sleep(0.2)
