"""Guided decoding: reads the guide of a request from any of the fields that can specify one.

Errors carry the JSON path of the invalid value as `param`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import orjson

from trtllm_openai.api.schema_check import MAX_DEPTH, TYPES, schema_fault
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import EngineInfo, Guide
from trtllm_openai.generation.build import unsupported
from trtllm_openai.protocol.common import JsonObject, SamplingFields

MAX_GUIDE = 128 * 1024
"""Maximum characters of a schema, regular expression or grammar; compile time grows with the length."""
FIELDS = frozenset({"guided_json", "guided_regex", "guided_grammar", "guided_choice", "structured_outputs"})


def find_guide(
    body: SamplingFields, info: EngineInfo, response_format: JsonObject | None = None
) -> Guide | None:
    """The guide of a request, or None. Raises `InvalidRequest` for several, or for an unsupported kind."""
    if response_format is None and body.model_fields_set.isdisjoint(FIELDS):
        return None
    found = [
        guide
        for guide in (
            _from_response_format(response_format),
            _from_schema(body.guided_json, "guided_json"),
            _text("regex", body.guided_regex, "guided_regex"),
            _text("grammar", body.guided_grammar, "guided_grammar"),
            _choice(body.guided_choice, "guided_choice"),
            *_from_structured_outputs(body.structured_outputs),
        )
        if guide is not None
    ]
    if len(found) > 1:
        names = " and ".join(guide.param for guide in found)
        raise InvalidRequest(f"{names} are mutually exclusive.", found[-1].param)
    if not found:
        return None
    check_guide(info, found[0])
    if body.min_tokens:
        raise InvalidRequest(
            f"min_tokens cannot be combined with {found[0].param}, which determines where the text ends.",
            "min_tokens",
        )
    return found[0]


def check_guide(info: EngineInfo, guide: Guide) -> None:
    """Raise `InvalidRequest` for a kind of guide that the engine does not support."""
    if guide.kind not in info.capabilities.guides:
        raise unsupported(info, guide.param)


def schema_guide(schema: Any, param: str, origins: tuple[tuple[str, str], ...] = ()) -> Guide:
    """A JSON schema as a guide. `origins`: see `Guide`.

    Raises `InvalidRequest` with the JSON path of an invalid keyword.
    """
    if not isinstance(schema, (dict, bool)):
        raise InvalidRequest(f"'{param}' must be a JSON schema.", param, "invalid_type")
    text = msgspec.json.encode(schema).decode()
    _check_length(text, param)
    guide = Guide("json_schema", text, param, origins)
    if (fault := schema_fault(schema)) is not None:
        json_path, message = fault
        place = guide.param_at(json_path)
        raise InvalidRequest(f"'{place}' is not valid in a JSON schema: {message}.", place, "invalid_schema")
    return guide


def check_tool_schemas(tools: Sequence[JsonObject], demanded: Collection[str]) -> None:
    """Raise `InvalidRequest` for parameters that are no JSON schema, of a tool whose call may be demanded."""
    for index, tool in enumerate(tools):
        function = tool["function"]
        if function["name"] in demanded and function.get("parameters") is not None:
            schema_guide(function["parameters"], f"tools[{index}].function.parameters")


def _check_length(text: str, param: str) -> None:
    if len(text) > MAX_GUIDE:
        raise InvalidRequest(f"'{param}' is longer than {MAX_GUIDE} characters.", param)


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def _from_schema(schema: JsonObject | str | None, param: str) -> Guide | None:
    if schema is None:
        return None
    if isinstance(schema, str):
        _check_length(schema, param)
        try:
            schema = orjson.loads(schema)  # refuses half of a surrogate pair, which no engine could take
        except ValueError as error:
            raise InvalidRequest(f"'{param}' is not JSON: {error}.", param) from None
    return schema_guide(schema, param)


def _text(kind: Any, text: str | None, param: str, origins: tuple[tuple[str, str], ...] = ()) -> Guide | None:
    if text is None:
        return None
    if not text or len(text) > MAX_GUIDE:
        raise InvalidRequest(f"'{param}' must have 1 to {MAX_GUIDE} characters.", param)
    return Guide(kind, text, param, origins)


def _choice(choices: list[str] | None, param: str) -> Guide | None:
    if choices is None:
        return None
    if not choices or "" in choices:
        raise InvalidRequest(f"'{param}' must be a list of non-empty strings.", param)
    options = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    return _text("grammar", f"root ::= {options}", param)


def _from_response_format(response_format: JsonObject | None) -> Guide | None:
    """OpenAI's formats, those of trtllm-serve (`json`, `regex`, `ebnf`), or a JSON schema as it is."""
    if response_format is None:
        return None
    param = "response_format"
    match response_format.get("type"):
        case "text":
            return None
        case "json_object" if response_format.get("schema") is None:
            return Guide("json_object", param=param)
        case "json_object" | "json":
            return schema_guide(response_format.get("schema"), f"{param}.schema")
        case "json_schema":
            return _named_schema(response_format, param)
        case "regex":
            return _required_text("regex", response_format, "regex", param)
        case "ebnf":
            return _required_text("grammar", response_format, "ebnf", param)
        case "structural_tag":
            return _structural_tag(response_format, param)
        case str(kind) if kind in TYPES:
            return schema_guide(response_format, param)
        case kind:
            raise InvalidRequest(f"'{param}.type' must be {_FORMATS}, not {kind!r}.", f"{param}.type")


_FORMATS = "text, json_object, json_schema, json, regex, ebnf or structural_tag"


def _named_schema(response_format: JsonObject, param: str) -> Guide:
    """The schema is in `json_schema.schema`, or it is `json_schema` itself, or stands beside the type."""
    named = response_format.get("json_schema")
    if named is None and response_format.get("schema") is not None:
        return schema_guide(response_format["schema"], f"{param}.schema")
    if isinstance(named, dict) and named and named.keys().isdisjoint(_OF_A_NAMED_SCHEMA):
        return schema_guide(named, f"{param}.json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    return schema_guide(schema, f"{param}.json_schema.schema")


_OF_A_NAMED_SCHEMA = frozenset({"name", "schema", "strict"})
"""Fields of OpenAI's `json_schema`, none of which is a keyword of JSON schemas."""


def _required_text(kind: Any, response_format: JsonObject, key: str, param: str) -> Guide | None:
    value = response_format.get(key)
    if not isinstance(value, str):
        raise InvalidRequest(f"'{param}.{key}' must be a string.", f"{param}.{key}", "invalid_type")
    return _text(kind, value, f"{param}.{key}")


def _structural_tag(tag: Any, param: str) -> Guide | None:
    """A structural tag in XGrammar's format, or in its older one with `structures` and `triggers`."""
    if tag is None:
        return None
    if isinstance(tag, str):
        _check_length(tag, param)
        try:
            tag = orjson.loads(tag)
        except ValueError as error:
            raise InvalidRequest(f"'{param}' is not JSON: {error}.", param) from None
    if not isinstance(tag, dict) or (tag.get("format") is None and tag.get("structures") is None):
        raise InvalidRequest(f"'{param}' needs a format (or structures and triggers).", f"{param}.format")
    form = tag.get("format")
    origins: tuple[tuple[str, str], ...] = ()
    if form is None:
        form, origins = _triggered_tags(tag, param)
    if _depth(form) > MAX_DEPTH:
        raise InvalidRequest(f"'{param}' is nested deeper than {MAX_DEPTH} levels.", param)
    text = msgspec.json.encode({"type": "structural_tag", "format": form}).decode()
    return _text("structural_tag", text, param, origins)


def _triggered_tags(tag: JsonObject, param: str) -> tuple[JsonObject, tuple[tuple[str, str], ...]]:
    """The older form as a format, and where its parts are from."""
    structures = tag["structures"]
    if not isinstance(structures, list) or not structures:
        raise InvalidRequest(f"'{param}.structures' must be a non-empty list.", f"{param}.structures")
    tags: list[JsonObject] = []
    origins: list[tuple[str, str]] = []
    for index, one in enumerate(structures):
        place, inside = f"{param}.structures[{index}]", f".format.tags[{index}]"
        if not isinstance(one, dict):
            raise InvalidRequest(f"'{place}' must be an object.", place, "invalid_type")
        content = {"type": "json_schema", "json_schema": one.get("schema")}
        tags.append({"type": "tag", "begin": one.get("begin"), "content": content, "end": one.get("end")})
        origins += [(f"{inside}.content.json_schema", f"{place}.schema"), (inside, place)]
    form = {"type": "triggered_tags", "triggers": tag.get("triggers"), "tags": tags}
    return form, (*origins, (".format.tags", f"{param}.structures"), (".format", param))


def _from_structured_outputs(wanted: JsonObject | None) -> list[Guide | None]:
    """Guides in vLLM's `structured_outputs`: an object with one of these keys."""
    if wanted is None:
        return []
    kinds: dict[str, tuple[type | tuple[type, ...], Any]] = {
        "json": ((dict, str), _from_schema),
        "regex": (str, functools.partial(_text, "regex")),
        "grammar": (str, functools.partial(_text, "grammar")),
        "choice": (list, _choice),
        "structural_tag": ((dict, str), _structural_tag),
        "json_object": (bool, lambda on, param: Guide("json_object", param=param) if on else None),
    }
    guides: list[Guide | None] = []
    for key, value in wanted.items():
        param = f"structured_outputs.{key}"
        if value is None:
            continue
        if key not in kinds:
            raise InvalidRequest(f"'{param}' is not supported.", param, "unsupported_parameter")
        types, make = kinds[key]
        texts = not isinstance(value, list) or all(isinstance(item, str) for item in value)
        if not isinstance(value, types) or not texts:
            raise InvalidRequest(f"'{param}' has the wrong type.", param, "invalid_type")
        guides.append(make(value, param))
    return guides
