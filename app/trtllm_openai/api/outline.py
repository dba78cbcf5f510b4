"""Refuses a body of very many values before it is parsed, which takes 20 ms a megabyte without interruption.

`refuse_dense` counts what is in each field by vector operations on the bytes, which let other threads run. It
refuses only what `api.budget` would refuse as well, and names the same field, though not a place within it.
Everything else is left to the parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from trtllm_openai.api.budget import FLAT, MAX_FIELDS, check_budget, too_many_fields, too_many_values
from trtllm_openai.config import LimitSettings

BLOCK = 1 << 18
"""Bytes that are looked at together; bounds the memory for it to some 3 MB."""
_DEPTH = np.zeros(256, np.int8)
_DEPTH[[ord("["), ord("{")]] = 1
_DEPTH[[ord("]"), ord("}")]] = -1
_SPACE = b" \t\r\n"
_FIELD = re.compile(rb'[\s{]*"([^"]*)"\s*:\s*(\S)\s*(\S?)')
_NUMBER = re.compile(rb"\S[\d.eE+-]*")
_MAX_NUMBER = 32
_FIRST: dict[bytes, Any] = {b'"': "", b"[": [], b"{": {}}


@dataclass(slots=True)
class Field:
    """A field of the body: where it starts, the commas of its own array or object, and all inside of it."""

    start: int
    own_commas: int = 0
    commas: int = 0


class _List(list[Any]):
    """Stands for a list of `length` elements, of which it has the first."""

    length = 0

    def __len__(self) -> int:
        return self.length


class _Dict(dict[str, Any]):
    """Stands for an object of `length` fields."""

    length = 0

    def __len__(self) -> int:
        return self.length


def refuse_dense(raw: bytes | bytearray, limits: LimitSettings) -> None:
    """Raise `InvalidRequest` for a body that exceeds a limit on numbers of values. Meant for a thread."""
    text = bytes(raw)
    if not text.lstrip(_SPACE).startswith(b"{"):
        return
    if b"\\" in text:  # escapes, from the left: what remains of quotes are the ends of strings
        text = text.replace(rb"\\", b"__").replace(rb"\"", b"__")
    fields, count = outline(text)
    if count > MAX_FIELDS:
        raise too_many_fields(count)
    body: dict[str, Any] = {}
    left = limits.max_json_values
    dense = ""
    for field in fields:
        found = _FIELD.match(text, field.start)
        if found is None:
            return
        name = found[1].decode("utf-8", "replace")
        body[name] = _stand_in(text, found, field)
        if name not in FLAT:
            left -= field.commas
            if left < 0:
                dense = dense or name
    check_budget(body, limits, 0, 0)
    if dense:
        raise too_many_values(dense, limits)


def outline(text: bytes) -> tuple[list[Field], int]:
    """The fields of a JSON object without escapes, at most `MAX_FIELDS` of them, and their number."""
    fields, count = [Field(0)], 1
    for offset, depth, comma in _blocks(text):
        cuts = np.flatnonzero(comma & (depth == 1))
        count += len(cuts)
        own = comma & (depth == 2)
        inner = comma & (depth >= 2)
        low = 0
        for cut in [*cuts[: MAX_FIELDS + 1].tolist(), len(depth)]:
            field = fields[-1]
            field.own_commas += int(np.count_nonzero(own[low:cut]))
            field.commas += int(np.count_nonzero(inner[low:cut]))
            low = cut + 1
            if cut < len(depth) and len(fields) <= MAX_FIELDS:
                fields.append(Field(offset + cut + 1))
    return fields, count


def _blocks(text: bytes) -> Iterator[tuple[int, Any, Any]]:
    """The text by blocks: the offset, and for each byte the depth after it, and whether it is a comma between
    values."""
    inside, deep = 0, 0
    for offset in range(0, len(text), BLOCK):
        block = np.frombuffer(text, np.uint8, min(BLOCK, len(text) - offset), offset)
        strings = np.bitwise_xor.accumulate((block == ord('"')).view(np.uint8)) ^ inside
        outside = strings == 0
        depth = np.cumsum(_DEPTH[block] * outside, dtype=np.int32) + deep
        yield offset, depth, (block == ord(",")) & outside
        inside, deep = int(strings[-1]), int(depth[-1])


def _stand_in(text: bytes, found: re.Match[bytes], field: Field) -> Any:
    """What `check_budget` takes for the field's value: of the same type and length; None for a text."""
    opening = found[2]
    if opening == b"[":
        several = _List([_FIRST.get(found[3], 0)])
        several.length = field.own_commas + 1
        return several
    if opening == b"{":
        fields = _Dict()
        fields.length = field.own_commas + 1
        return fields
    number = _NUMBER.match(text, found.start(2), found.start(2) + _MAX_NUMBER)
    try:
        return orjson.loads(number[0]) if number is not None else None
    except orjson.JSONDecodeError:
        return None
