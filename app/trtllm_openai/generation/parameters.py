"""The rows of the parameter table, read from the structs whose fields carry a `Parameter`."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from trtllm_openai.generation.sampling import Parameter, SamplingParams
from trtllm_openai.generation.types import GenerationRequest

Kind = Literal["integer", "number", "boolean", "string", "integers", "strings", "token biases"]
"""The type on the wire. "integers" and "strings" are lists, the latter of texts that become token ids; "token
biases" is an object of numbers, keyed by token id."""

_KINDS: dict[Any, Kind] = {
    int: "integer",
    float: "number",
    bool: "boolean",
    str: "string",
    tuple[int, ...]: "integers",
    tuple[tuple[int, ...], ...]: "strings",
    dict[int, float]: "token biases",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter: the field's name, wire type and default, and its metadata.

    `default` is None where the field has none.
    """

    name: str
    kind: Kind
    default: Any
    parameter: Parameter

    @property
    def description(self) -> str:
        """The description, with the default of a value that has one."""
        text = self.parameter.description
        if isinstance(self.default, bool) or not isinstance(self.default, (int, float)):
            return text
        return f"{text} Default {self.default:g}."

    @property
    def bounds(self) -> str:
        """The range of the value, or of each element, as a clause that follows the name; or empty."""
        parameter = self.parameter
        low, high = parameter.minimum, parameter.maximum
        if low is not None:
            return f"must be from {low} to {high}" if high is not None else f"must be at least {low}"
        if parameter.above is not None:
            return f"must be above {parameter.above}" + (f" and at most {high}" if high is not None else "")
        return ""

    def fault(self, value: float) -> str | None:
        """Why a number is outside the range, as a clause that follows the name; None if it is inside."""
        parameter = self.parameter
        if parameter.above is not None and not value > parameter.above:
            return f"must be above {parameter.above}"
        if parameter.minimum is not None and not value >= parameter.minimum:
            return f"must be at least {parameter.minimum}"
        if parameter.maximum is not None and not value <= parameter.maximum:
            return f"must be at most {parameter.maximum}"
        return None


def rows(*structs: type[msgspec.Struct]) -> tuple[Row, ...]:
    """The rows of every field of `structs` that has a `Parameter`, in order.

    Raises `TypeError` for a field whose type has no form on the wire.
    """
    return tuple(
        Row(field.name, _kind(field), None if field.required else field.default, parameter)
        for struct in structs
        for field in msgspec.structs.fields(struct)
        if get_origin(field.type) is Annotated
        for parameter in get_args(field.type)[1:]
        if isinstance(parameter, Parameter)
    )


def _kind(field: msgspec.structs.FieldInfo) -> Kind:
    value_type = get_args(field.type)[0]
    if get_origin(value_type) in (Union, types.UnionType):
        value_type = next(one for one in get_args(value_type) if one is not type(None))
    kind = _KINDS.get(value_type)
    if kind is None:
        raise TypeError(f"{field.name}: a parameter cannot be of type {value_type}")
    return kind


SAMPLING = rows(SamplingParams)
PARAMETERS = SAMPLING + rows(GenerationRequest)
BY_NAME = {row.name: row for row in PARAMETERS}

_CONVERTED = tuple((row.name, row.parameter.convert) for row in SAMPLING if row.parameter.convert is not None)


def converted(values: dict[str, Any]) -> dict[str, Any]:
    """Arguments for `SamplingParams` from values as they are on the wire, none of them null."""
    arguments = values.copy()
    for name, convert in _CONVERTED:
        if name in values:
            arguments[name] = convert(values[name])
    return arguments
