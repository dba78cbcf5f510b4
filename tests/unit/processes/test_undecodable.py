"""Messages that cannot be decoded are logged and counted, and are given back as far as they can be read."""

import logging

import msgspec
import pytest

from trtllm_openai.processes.undecodable import UNDECODABLE, report, sendable, total


@pytest.mark.parametrize(
    ("body", "plain"),
    [
        (b"\xc1", []),
        (b"", []),
        (b"\x92\xa1a", []),
        (b"\x91\xa2\xff\xfe", []),
        (b"\x91" * 100_000, []),
        (b"\x07", []),
        (msgspec.msgpack.encode(["a", {"b": [1]}]), ["a", {"b": [1]}]),
    ],
    ids=str,
)
def test_a_message_is_logged_counted_and_returned(
    body: bytes, plain: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    before = total()
    with pytest.raises(UNDECODABLE) as raised:
        msgspec.msgpack.decode(body, type=tuple[int, str])
    assert report("somebody", body, raised.value) == plain
    assert total() == before + 1
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert f"a message of {len(body)} bytes from somebody could not be decoded" in record.message


def test_half_of_a_surrogate_pair_can_be_sent() -> None:
    assert sendable("a\ud800é") == "a?é"
    assert msgspec.msgpack.encode(sendable("\udfff"))
