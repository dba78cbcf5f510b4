"""A frontend's end of a connection, without an event loop."""

import socket

from trtllm_openai.processes.address import UnixAddress, parse_address
from trtllm_openai.processes.framing import FramedSocket


def connect(address: str) -> FramedSocket:
    """Connect to a runner at a Unix address."""
    parsed = parse_address(address)
    assert isinstance(parsed, UnixAddress)
    end = socket.socket(socket.AF_UNIX)
    end.connect(parsed.path)
    return FramedSocket(end)
