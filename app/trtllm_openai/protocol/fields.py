"""Field types of request models: integers, lists that fail fast, and fields made from the parameter table.

Validation of a list or map stops at or soon after its first wrong element, so the errors of a body are few
whatever it holds.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Annotated, Any, TypeVar

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from trtllm_openai.generation.parameters import Row

T = TypeVar("T")
FailFastList = Annotated[list[T], Field(fail_fast=True)]

_LONG = 64
_PIECE = 4096
"""Ids that are checked at once, in some 70 µs."""


def _in_pieces(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    """Check a long list of ids piece by piece, and by `handler` only what holds something else.

    Nothing holds the interpreter for longer than a piece takes: other threads run between them.
    """
    if not isinstance(value, list) or len(value) <= _LONG:
        return handler(value)
    for start in range(0, len(value), _PIECE):
        piece = value[start : start + _PIECE]
        if set(map(type, piece)) != {int} or min(piece) < 0:
            _refuse(piece, start, handler)
    return value


def _refuse(piece: list[object], start: int, handler: ValidatorFunctionWrapHandler) -> None:
    """Raise the error of a part of a list, at its index in the list, where the part begins at `start`."""
    try:
        handler(piece)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        index, *rest = item["loc"]
        assert isinstance(index, int)
        raise _relocated(error, (start + index, *rest), item["input"]) from None


def _relocated(error: ValidationError, location: tuple[int | str, ...], value: object) -> ValidationError:
    """The first error in `error`, about `value`, at another location."""
    item = error.errors(include_url=False)[0]
    fault: InitErrorDetails = {
        "type": PydanticCustomError(item["type"], item["msg"]),
        "loc": location,
        "input": value,
    }
    return ValidationError.from_exception_data(error.title, [fault])


TokenIds = Annotated[FailFastList[Annotated[int, Field(ge=0)]], WrapValidator(_in_pieces)]
"""A list of token ids. A long one is checked in a quarter of the time, and not copied."""


class _Integral:
    """An integer, or a float with an integral value; an integer costs no Python call."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        integer = handler(source)
        converted = core_schema.no_info_wrap_validator_function(_integral, integer)
        # The labels are those of Python types, which `api.errors` strips from the location of an error.
        return core_schema.union_schema([(integer, "int"), (converted, "float")], mode="left_to_right")

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        assert schema["type"] == "union"
        return handler(next(choice[0] for choice in schema["choices"] if isinstance(choice, tuple)))


def _read(value: object) -> object:
    """A float with an integral value as an integer.

    -2**63 is what the parser makes of the integers beyond 64 bits next to it too: as if it were one of them.
    """
    if not isinstance(value, float) or not value.is_integer():
        return value
    return int(value) - 1 if value == -(2.0**63) else int(value)


def _integral(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    read = _read(value)
    try:
        return handler(read)
    except ValidationError as error:
        # Both alternatives failed. Only this one's error holds for 1e30, which is out of range and no wrong
        # type; a deeper location makes it the one that is reported.
        location = error.errors(include_url=False)[0]["loc"]
        raise _relocated(error, ("int", *location), value if read == value else read) from None


INTEGRAL = _Integral()
"""Annotates an `int` that may be written as a float, such as 2.0: JSON has one kind of number. A boolean is
refused."""

_BATCH = 64


def _in_batches(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    if not isinstance(value, dict) or len(value) <= _BATCH:
        return handler(value)
    items = iter(value.items())
    validated: dict[object, object] = {}
    while batch := dict(islice(items, _BATCH)):
        validated.update(handler(batch))
    return validated


FAIL_FAST_MAP = WrapValidator(_in_batches)
"""Validates a map 64 entries at a time: pydantic's `fail_fast` covers sequences only."""

MAX_METADATA = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512


def _small(value: object) -> object:
    """Refuse metadata with too many or too long keys before an error could repeat one of them."""
    if isinstance(value, dict):
        if len(value) > MAX_METADATA:
            raise PydanticCustomError("too_long", f"at most {MAX_METADATA} keys are allowed")
        if any(isinstance(key, str) and len(key) > MAX_METADATA_KEY for key in value):
            raise PydanticCustomError("string_too_long", f"a key has at most {MAX_METADATA_KEY} characters")
    return value


Metadata = Annotated[
    dict[
        Annotated[str, Field(max_length=MAX_METADATA_KEY)],
        Annotated[str, Field(max_length=MAX_METADATA_VALUE)],
    ],
    Field(max_length=MAX_METADATA),
    BeforeValidator(_small),
]
"""A client's own key-value pairs, bounded as OpenAI bounds them."""


def parameter_fields(table: Collection[Row]) -> dict[str, Any]:
    """Definitions for `pydantic.create_model`: one nullable field for each row, where null is the default."""
    return {row.name: (_wire_type(row) | None, Field(None, description=row.description)) for row in table}


def _wire_type(row: Row) -> Any:
    parameter = row.parameter
    bounds = Field(ge=parameter.minimum, gt=parameter.above, le=parameter.maximum)
    number = Annotated[float, bounds, Field(allow_inf_nan=False)]
    match row.kind:
        case "integer":
            return Annotated[int, bounds, INTEGRAL]
        case "number":
            return number
        case "boolean":
            return bool
        case "string":
            return Annotated[str, Field(min_length=1)]
        case "integers":
            least = None if parameter.empty else 1
            return Annotated[FailFastList[Annotated[int, bounds]], Field(min_length=least)]
        case "strings":
            return FailFastList[Annotated[str, Field(min_length=1)]]
        case "token biases":
            return Annotated[dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], number], FAIL_FAST_MAP]
