"""Decodes compressed request bodies: gzip, deflate and zstd.

The output is made in pieces and never exceeds its limit by more than one piece, so that a body of a few
kilobytes that stands for gigabytes costs what the limit allows. gzip and zstd bodies may consist of several
members or frames (RFC 1952, RFC 8878), as `cat a.gz b.gz` and bgzip make them, up to `MAX_MEMBERS`.
"""

from __future__ import annotations

import sys
import zlib
from typing import Protocol

from trtllm_openai.api.errors import ApiError, too_large

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CODINGS = ("gzip", "deflate", "zstd")
_ALIASES = {"x-gzip": "gzip"}
_PIECE = 64 * 1024
MAX_MEMBERS = 1024
"""Each costs some microseconds, however empty it is; a member of bgzip has up to 64 KiB."""
_LARGEST_WINDOW_LOG = 23
"""zstd: 8 MiB, the window that RFC 9659 allows in HTTP; a frame may demand gigabytes."""


class Decompressor(Protocol):
    """What zlib's and zstd's decompressors have in common."""

    @property
    def eof(self) -> bool:
        """Whether the end of the stream was reached."""

    @property
    def unused_data(self) -> bytes:
        """The input after the end of the stream."""

    def decompress(self, data: bytes | memoryview, max_length: int, /) -> bytes:
        """At most `max_length` bytes of output; the rest of the input is kept."""


class _Zlib:
    """zlib's decompressor, which keeps the rest of its input by itself as zstd's does."""

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes | memoryview, max_length: int, /) -> bytes:
        return self._inner.decompress(data or self._inner.unconsumed_tail, max_length)


def content_coding(value: str | None) -> str | None:
    """The coding that a `content-encoding` names, None for none. Raises `ApiError` 415 for an unknown one."""
    coding = (value or "").strip().lower()
    coding = _ALIASES.get(coding, coding)
    if coding in ("", "identity"):
        return None
    if coding not in CODINGS:
        raise ApiError(
            415,
            f"The content-encoding '{coding[:64]}' is not supported; use {', '.join(CODINGS)} or none.",
            code="unsupported_media_type",
            headers={"accept-encoding": ", ".join(CODINGS)},
        )
    return coding


def decode(data: bytes | bytearray, coding: str, limit: int) -> bytearray:
    """Decompress a whole body of a coding of `CODINGS`; blocks for as long as that takes.

    Raises `ApiError` 413 as soon as there are more than `limit` bytes, and 400 for broken data.
    """
    decoded = bytearray()
    end = members = 0
    try:
        while not members or (end < len(data) and coding != "deflate"):
            if members == MAX_MEMBERS:
                raise _broken(coding, f"it has more than {MAX_MEMBERS} members")
            end = _decode_member(data, end, coding, limit, decoded)
            members += 1
    except (zlib.error, zstd.ZstdError) as error:
        raise _broken(coding, str(error)) from None
    if end < len(data):
        raise _broken(coding, "more data follows its end")
    return decoded


def _decode_member(data: bytes | bytearray, begin: int, coding: str, limit: int, decoded: bytearray) -> int:
    """Append what the member at `begin` stands for to `decoded`. Returns where the member ends."""
    decompressor = _decompressor(data, coding)
    end = begin
    while end < len(data) and not decompressor.eof:
        begin, end = end, end + _PIECE
        piece = decompressor.decompress(memoryview(data)[begin:end], _PIECE)
        while piece:
            decoded += piece
            if len(decoded) > limit:
                raise too_large(limit)
            piece = b"" if decompressor.eof else decompressor.decompress(b"", _PIECE)
    if not decompressor.eof:
        raise _broken(coding, "it is cut off")
    return min(end, len(data)) - len(decompressor.unused_data)


def _decompressor(data: bytes | bytearray, coding: str) -> Decompressor:
    if coding == "zstd":
        return zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: _LARGEST_WINDOW_LOG}
        )
    if coding == "gzip":
        return _Zlib(zlib.MAX_WBITS | 16)
    # RFC 9110 means zlib's format by "deflate"; some clients send the bare stream (RFC 1951).
    has_header = len(data) >= 2 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
    return _Zlib(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


def _broken(coding: str, reason: str) -> ApiError:
    return ApiError(400, f"The body is not valid {coding}: {reason}.", code="invalid_encoding")
