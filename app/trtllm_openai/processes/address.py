"""Addresses of runners: `unix:/path` on this machine, `tcp://host:port` on another.

A Unix socket is protected by the permissions of its directory. A TCP socket is open to the network, so
`processes.authentication` has to run over it before anything else, and `processes.tls` after that where the
network is not this machine's own (`refuse_plain_text`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

KEEPALIVE_IDLE_S = 15
"""Seconds of silence after which TCP asks whether the other machine is still there."""
KEEPALIVE_PROBES = 3
"""Unanswered probes, `KEEPALIVE_IDLE_S` apart, after which the connection is lost."""


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A port of a host, which is a name, an IPv4 or an IPv6 address."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only processes of this machine reach it. Of names only `localhost` is known to be that."""
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"


def parse_address(text: str) -> UnixAddress | TcpAddress:
    """Read `unix:/path` or `tcp://host:port`. Raises `ValueError`."""
    if text.startswith("unix:") and text.removeprefix("unix:").startswith("/"):
        return UnixAddress(text.removeprefix("unix:"))
    parts = urlsplit(text)
    if parts.scheme == "tcp" and parts.hostname and parts.port is not None and not parts.path:
        return TcpAddress(parts.hostname, parts.port)
    raise ValueError(f"{text!r} is neither unix:/path nor tcp://host:port")


def refuse_plain_text(address: UnixAddress | TcpAddress, identity: str) -> None:
    """Raise `ValueError` for a TCP address that other machines reach, unless the link has TLS.

    `identity`: see `processes.tls`; empty: no TLS. Proofs of a secret alone keep nobody on the way from
    reading prompts, nor from putting in messages after them.
    """
    if isinstance(address, TcpAddress) and not identity and not address.is_loopback:
        raise ValueError(
            f"the link to {address} would be plain text on a network: "
            "only a launcher with `encrypted` may use an address that is not this machine's loopback"
        )


def listen(address: UnixAddress | TcpAddress, backlog: int) -> socket.socket:
    """A non-blocking socket that listens at `address`. Raises `OSError`."""
    if isinstance(address, UnixAddress):
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(address.path)
            listener.listen(backlog)
        except OSError:
            listener.close()
            raise
    else:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        listener = socket.create_server((address.host, address.port), family=family, backlog=backlog)
    listener.setblocking(False)
    return listener


async def connect(address: UnixAddress | TcpAddress) -> socket.socket:
    """A non-blocking connection to `address`. Raises `OSError` if nobody listens there."""
    if isinstance(address, UnixAddress):
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        try:
            connection.connect(address.path)
        except OSError:
            connection.close()
            raise
        return connection
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, target = found[0]
    connection = socket.socket(family, kind, protocol)
    connection.setblocking(False)
    try:
        await loop.sock_connect(connection, target)
    except BaseException:
        connection.close()
        raise
    tune_tcp(connection)
    return connection


def tune_tcp(connection: socket.socket) -> None:
    """Send each message at once, and notice a machine that vanished."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
