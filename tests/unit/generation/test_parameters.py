"""The parameter table: what a row says, and that one more row is all that a new parameter takes."""

import math
from typing import Annotated

import msgspec
import pytest
from pydantic import ValidationError, create_model

from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Capabilities, EngineInfo, SamplingParams
from trtllm_openai.generation.build import check_capabilities, check_supported
from trtllm_openai.generation.docs import table
from trtllm_openai.generation.parameters import BY_NAME, PARAMETERS, SAMPLING, converted, rows
from trtllm_openai.generation.sampling import INT64_MAX, LOWEST_TEMPERATURE, LOWEST_TOP_P, Parameter
from trtllm_openai.protocol.common import RequestModel
from trtllm_openai.protocol.fields import parameter_fields


class MoreParams(SamplingParams, frozen=True):
    """A copy of the table with one more parameter."""

    typical_p: Annotated[float, Parameter("Locally typical sampling.", 0.2, 1, capability="typical_p")] = 1.0


class MoreCapabilities(Capabilities, frozen=True):
    typical_p: bool = False


def info(capabilities: Capabilities) -> EngineInfo:
    return EngineInfo("fake", "llama", "float32", "cpu", 100, (2,), 64, 4, capabilities)


def test_a_new_parameter_is_one_row() -> None:
    more = rows(MoreParams)
    assert [row.name for row in more if row not in SAMPLING] == ["typical_p"]
    model = create_model("More", __base__=RequestModel, **parameter_fields(more))
    assert model.model_validate({"typical_p": 0.5}).model_dump(exclude_unset=True) == {"typical_p": 0.5}
    with pytest.raises(ValidationError) as refused:
        model.model_validate({"typical_p": 0.1})
    assert [item["loc"] for item in refused.value.errors()] == [("typical_p",)]
    schema = model.model_json_schema()["properties"]["typical_p"]
    assert schema["description"] == "Locally typical sampling. Default 1."
    assert {"type": "number", "minimum": 0.2, "maximum": 1.0} in schema["anyOf"]

    wanted = MoreParams(max_tokens=5, typical_p=0.5)
    check_capabilities(info(MoreCapabilities(typical_p=True)), wanted, "logprobs", more)
    check_capabilities(info(MoreCapabilities()), MoreParams(max_tokens=5), "logprobs", more)
    with pytest.raises(InvalidRequest) as missing:
        check_capabilities(info(MoreCapabilities()), wanted, "logprobs", more)
    assert (missing.value.param, missing.value.code) == ("typical_p", "unsupported_parameter")

    assert (
        "| `typical_p` | number | 0.2 to 1 | `typical_p` | Locally typical sampling. Default 1. |"
        in table(more)
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(wanted), type=MoreParams) == wanted


def test_every_capability_of_the_table_exists() -> None:
    named = {row.parameter.capability for row in PARAMETERS} - {None}
    assert named == {
        "min_p",
        "seed",
        "penalties",
        "logit_bias",
        "min_tokens",
        "priority",
        "cache_salt",
        "allowed_token_ids",
        "bad_words",
    }
    assert named <= set(Capabilities.__struct_fields__)


OTHER_VALUES = {
    "min_p": 0.1,
    "seed": 0,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.5,
    "logit_bias": {3: 1.0},
    "min_tokens": 1,
    "allowed_token_ids": (3,),
    "bad_words": ((3, 4),),
}


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_parameter_needs_its_capability(name: str) -> None:
    capability = BY_NAME[name].parameter.capability
    assert capability is not None
    sampling = msgspec.structs.replace(SamplingParams(max_tokens=5), **{name: OTHER_VALUES[name]})
    check_supported(info(Capabilities(**{capability: True})), sampling, SAMPLING)  # type: ignore[arg-type]
    every_other = {
        field: field != capability
        for field in Capabilities.__struct_fields__
        if isinstance(getattr(Capabilities(), field), bool)
    }
    with pytest.raises(InvalidRequest) as refused:
        check_supported(info(Capabilities(**every_other)), sampling, SAMPLING)  # type: ignore[arg-type]
    assert refused.value.param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [("logit_bias", {100: 1.0}), ("stop_token_ids", (5, 100)), ("allowed_token_ids", (100, 5))],
)
def test_token_ids_are_in_the_vocabulary(name: str, value: object) -> None:
    sampling = msgspec.structs.replace(SamplingParams(max_tokens=5), **{name: value})
    can = Capabilities(logit_bias=True, allowed_token_ids=True)
    with pytest.raises(InvalidRequest, match="Token id 100 is outside") as refused:
        check_supported(info(can), sampling, SAMPLING)
    assert refused.value.param == name


def test_a_type_without_a_form_on_the_wire() -> None:
    class Odd(msgspec.Struct):
        when: Annotated[complex, Parameter("Never.")] = 0j

    with pytest.raises(TypeError, match="when"):
        rows(Odd)


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("temperature", 2.0, None),
        ("temperature", 2.01, "must be at most 2"),
        ("temperature", math.nan, "must be at least 0"),
        ("top_p", 0.0, "must be above 0"),
        ("top_p", 5e-324, None),
        ("repetition_penalty", 1e-38, "must be at least 0.01"),
        ("seed", INT64_MAX, None),
        ("seed", INT64_MAX + 1, f"must be at most {INT64_MAX}"),
        ("ignore_eos", True, None),
    ],
)
def test_fault(name: str, value: float, fault: str | None) -> None:
    assert BY_NAME[name].fault(value) == fault


@pytest.mark.parametrize(
    ("name", "wire", "field"),
    [
        ("temperature", 0.7, 0.7),
        ("temperature", LOWEST_TEMPERATURE, LOWEST_TEMPERATURE),
        ("temperature", 9e-5, 0.0),
        ("temperature", 5e-324, 0.0),
        ("top_p", 0.9, 0.9),
        ("top_p", 5e-324, LOWEST_TOP_P),
        ("top_k", -1, 0),
        ("top_k", 7, 7),
        ("seed", -1, None),
        ("seed", -2, -2),
        ("seed", 0, 0),
        ("logit_bias", {"7": 1.5}, {7: 1.5}),
        ("logit_bias", {}, None),
        ("stop_token_ids", [1, 2], (1, 2)),
    ],
)
def test_converted(name: str, wire: object, field: object) -> None:
    values = {name: wire}
    assert converted(values) == {name: field}
    assert values == {name: wire}


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("temperature", "must be from 0 to 2"),
        ("top_p", "must be above 0 and at most 1"),
        ("min_tokens", "must be at least 0"),
        ("seed", f"must be from {-(2**63)} to {2**63 - 1}"),
        ("ignore_eos", ""),
    ],
)
def test_bounds(name: str, bounds: str) -> None:
    assert BY_NAME[name].bounds == bounds
