"""What a request may ask beside sampling: priority, a deadline, a form that the text must have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from app.generation import EngineInfo, Guide, InvalidRequest
from app.generation.build import unsupported
from app.protocol.common import JsonObject, SamplingFields


@dataclass(frozen=True, slots=True)
class Extras:
    """`timeout`: seconds from the request's arrival."""

    priority: float | None = None
    timeout: float | None = None
    guide: Guide | None = None


def extras(body: SamplingFields, info: EngineInfo, response_format: JsonObject | None = None) -> Extras:
    """Read them. Raises `InvalidRequest` naming what this engine cannot do."""
    if body.priority is not None and not info.capabilities.priority:
        raise unsupported(info, "priority")
    return Extras(body.priority, body.timeout, _guide(body, info, response_format))


def _guide(body: SamplingFields, info: EngineInfo, response_format: JsonObject | None) -> Guide | None:
    found: dict[str, Guide] = {}
    if response_format is not None and (guide := _from_response_format(response_format)) is not None:
        found["response_format"] = guide
    if body.guided_json is not None:
        found["guided_json"] = Guide("json_schema", _json(body.guided_json))
    if body.guided_regex is not None:
        found["guided_regex"] = Guide("regex", body.guided_regex)
    if body.guided_grammar is not None:
        found["guided_grammar"] = Guide("grammar", body.guided_grammar)
    if len(found) > 1:
        raise InvalidRequest(f"Only one of {' and '.join(found)} may be given.", list(found)[-1])
    for param, guide in found.items():
        if guide.kind not in info.capabilities.guides:
            raise unsupported(info, param)
        return guide
    return None


def _from_response_format(response_format: JsonObject) -> Guide | None:
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Guide("json_object")
    if kind != "json_schema":
        raise InvalidRequest(
            f"'response_format.type' must be text, json_object or json_schema, not {kind!r}.",
            "response_format.type",
        )
    named = response_format.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        raise InvalidRequest(
            "'response_format.json_schema.schema' must be a JSON schema.",
            "response_format.json_schema.schema",
        )
    return Guide("json_schema", _json(schema))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
