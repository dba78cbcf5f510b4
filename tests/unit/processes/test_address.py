"""Addresses: their text, and connections to them."""

import asyncio
import socket
from pathlib import Path

import pytest

from trtllm_openai.processes.address import (
    TcpAddress,
    UnixAddress,
    connect,
    listen,
    parse_address,
    refuse_plain_text,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/a b.sock", UnixAddress("/run/a b.sock")),
        ("tcp://node-7:4711", TcpAddress("node-7", 4711)),
        ("tcp://10.0.0.1:1", TcpAddress("10.0.0.1", 1)),
        ("tcp://[::1]:4711", TcpAddress("::1", 4711)),
    ],
)
def test_addresses_survive_the_trip(text: str, address: UnixAddress | TcpAddress) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "/run/a.sock", "unix:a.sock", "tcp://", "tcp://host", "tcp://:80", "tcp://host:80/x", "http://h:1"],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither unix:/path nor tcp://host:port"):
        parse_address(text)


def test_a_port_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="out of range"):
        parse_address("tcp://host:99999")


@pytest.mark.parametrize(
    "text",
    ["unix:/run/a.sock", "tcp://127.0.0.1:1", "tcp://127.8.0.1:1", "tcp://[::1]:1", "tcp://localhost:1"],
)
def test_plain_text_stays_on_this_machine(text: str) -> None:
    refuse_plain_text(parse_address(text), "")


@pytest.mark.parametrize(
    "text", ["tcp://10.0.0.1:1", "tcp://0.0.0.0:1", "tcp://[::]:1", "tcp://[fd00::1]:1", "tcp://node-7:1"]
)
def test_plain_text_on_a_network_is_refused(text: str) -> None:
    address = parse_address(text)
    refuse_plain_text(address, "an identity")
    with pytest.raises(ValueError, match="would be plain text on a network"):
        refuse_plain_text(address, "")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_connect(kind: str, tmp_path: Path) -> None:
    text = f"unix:{tmp_path}/socket" if kind == "unix" else f"tcp://127.0.0.1:{free_port()}"
    address = parse_address(text)

    async def test() -> None:
        with pytest.raises(OSError):
            await connect(address)
        listener = listen(address, 4)
        connection = await connect(address)
        accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
        connection.send(b"hello")
        assert await asyncio.get_running_loop().sock_recv(accepted, 5) == b"hello"
        for one in (accepted, connection, listener):
            one.close()
        with pytest.raises(OSError):
            await connect(address)

    asyncio.run(test())
