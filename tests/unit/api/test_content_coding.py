"""Compressed bodies: what is read, and that nothing beyond the limit is decompressed."""

import gzip
import random
import sys
import tracemalloc
import zlib

import pytest

from trtllm_openai.api.content_coding import MAX_MEMBERS, content_coding, decode
from trtllm_openai.api.errors import ApiError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = bytes(range(256)) * 4096
RAW = zlib.compressobj(wbits=-zlib.MAX_WBITS)
ENCODED = [
    ("gzip", gzip.compress(TEXT)),
    ("deflate", zlib.compress(TEXT)),
    ("deflate", RAW.compress(TEXT) + RAW.flush()),
    ("zstd", zstd.compress(TEXT)),
]


def refusal(data: bytes, coding: str, limit: int = 10**9) -> ApiError:
    with pytest.raises(ApiError) as caught:
        decode(data, coding, limit)
    return caught.value


@pytest.mark.parametrize(("coding", "data"), ENCODED)
def test_decode(coding: str, data: bytes) -> None:
    assert decode(data, coding, len(TEXT)) == TEXT
    assert decode(bytearray(data), coding, len(TEXT)) == TEXT


@pytest.mark.parametrize(("coding", "data"), ENCODED)
def test_broken(coding: str, data: bytes) -> None:
    for broken in (data[:-1], data[: len(data) // 2], data + b"more", b"", b"\x01\x02\x03\x04 nonsense"):
        error = refusal(broken, coding)
        assert (error.status, error.code) == (400, "invalid_encoding")
        assert coding in error.message


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_several_members(coding: str) -> None:
    """Cut where a member is shorter than a piece of input, longer, or empty."""
    compress = gzip.compress if coding == "gzip" else zstd.compress
    parts = [b"", TEXT[:10], random.Random(1).randbytes(200_000), b"", TEXT]
    data = b"".join(map(compress, parts))
    assert decode(data, coding, 10**9) == b"".join(parts)
    assert refusal(data, coding, len(TEXT)).status == 413
    for broken in (data[:-1], data + b"more", data + b"\0"):
        assert refusal(broken, coding).code == "invalid_encoding"
    assert decode(compress(b"a") * MAX_MEMBERS, coding, MAX_MEMBERS) == b"a" * MAX_MEMBERS
    assert "more than 1024 members" in refusal(compress(b"") * (MAX_MEMBERS + 1), coding).message


@pytest.mark.parametrize(("coding", "data"), ENCODED)
def test_limit(coding: str, data: bytes) -> None:
    error = refusal(data, coding, len(TEXT) - 1)
    assert (error.status, error.code) == (413, "payload_too_large")
    assert "max_body_bytes" in error.message


def test_a_bomb_is_not_decompressed_whole() -> None:
    size = 256 * 2**20
    zeros = bytes(size)
    bombs = [
        ("gzip", gzip.compress(zeros, 1)),
        ("deflate", zlib.compress(zeros, 1)),
        ("zstd", zstd.compress(zeros)),
    ]
    del zeros
    for coding, bomb in bombs:
        tracemalloc.start()
        try:
            assert refusal(bomb, coding, 2**20).status == 413
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4 * 2**20, coding


def test_a_zstd_frame_cannot_ask_for_more_memory_than_http_allows() -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27}
    data = zstd.compress(TEXT * 200, options=options)
    assert refusal(data, "zstd").code == "invalid_encoding"


@pytest.mark.parametrize(
    ("value", "coding"),
    [(None, None), ("", None), ("identity", None), ("GZIP", "gzip"), (" x-gzip", "gzip"), ("zstd", "zstd")],
)
def test_content_coding(value: str | None, coding: str | None) -> None:
    assert content_coding(value) == coding


@pytest.mark.parametrize("value", ["br", "gzip, zstd", "a" * 1000])
def test_unknown_codings_are_named(value: str) -> None:
    with pytest.raises(ApiError) as caught:
        content_coding(value)
    assert caught.value.status == 415
    assert value[:64] in caught.value.message
    assert caught.value.headers["accept-encoding"] == "gzip, deflate, zstd"
