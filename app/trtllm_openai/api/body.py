"""Reads a JSON body into a request model: orjson first (fast on long prompts), then pydantic."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Iterable
from typing import Any, TypeVar

import orjson
from starlette.requests import Request

from trtllm_openai.api.budget import check_budget
from trtllm_openai.api.context import ServerContext
from trtllm_openai.api.errors import ApiError, request_id
from trtllm_openai.api.headers import headers
from trtllm_openai.config import LimitSettings
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.common import RequestModel
from trtllm_openai.protocol.refused import refused_fields
from trtllm_openai.telemetry.logs import fields

log = logging.getLogger(__name__)

T = TypeVar("T", bound=RequestModel)

_NESTING = frozenset({dict, list})
_LARGE = 65_536
"""Bytes of a body from which its check and validation leave the event loop."""
IGNORED_HEADER = "x-ignored-params"
BODY_SIZE = "trtllm_openai.body_size"
"""Key of the ASGI scope: the size of the body in bytes, by which routes know how much work there may be."""


async def read_body(request: Request, model: type[T]) -> T:
    """Parse the body as `model`, within the request's budget (`api.budget`).

    A field that would change the answer and cannot be honoured is refused. Raises pydantic's ValidationError
    (a 400), `InvalidRequest`, `ApiError` 400 or 415, or what `Bodies.read` raises.
    """
    content_type, coding = headers(request.scope, b"content-type", b"content-encoding")
    if content_type is not None and content_type != "application/json":
        content_type = content_type.partition(";")[0].strip().lower()
    if content_type not in (None, "application/json", "") and not content_type.endswith("+json"):
        raise ApiError(
            415,
            f"The body must be application/json, not {content_type}.",
            code="unsupported_media_type",
        )
    context: ServerContext = request.app.state.context
    raw = await context.bodies.read(request, coding)
    request.scope[BODY_SIZE] = len(raw)
    commas = raw.count(b",")
    if len(raw) < _LARGE:
        body = _validated(_parse(raw, context), raw, commas, context, model)
    else:
        body = await _read_large(raw, commas, context, model)
    if body.model_extra:
        _check_refused(body)
    return body


def _refuse_dense(raw: bytes | bytearray, limits: LimitSettings) -> None:
    """`outline.refuse_dense`, imported with numpy for the first body that has to be looked at so."""
    from trtllm_openai.api.outline import refuse_dense

    refuse_dense(raw, limits)


async def _read_large(raw: bytes | bytearray, commas: int, context: ServerContext, model: type[T]) -> T:
    """Parse a large body; all but the parser's own work is done in threads."""
    limits = context.settings.limits
    if commas > limits.max_json_values:
        try:
            await asyncio.to_thread(_refuse_dense, raw, limits)
        except InvalidRequest:
            _log_body(raw, context)
            raise
    # Without garbage collection, which many new objects start again and again, to find none.
    collects = gc.isenabled()
    gc.disable()
    try:
        value = _parse(raw, context)
    finally:
        if collects:
            gc.enable()
    try:
        return await asyncio.to_thread(_validated, value, raw, commas, context, model)
    except (ApiError, InvalidRequest) as error:
        raise error.with_traceback(None) from None  # the frames hold the body


def _check_refused(body: RequestModel) -> None:
    """Refuse a field that is known to change the answer elsewhere (`protocol.refused`)."""
    refused = refused_fields(type(body))
    for name, value in (body.model_extra or {}).items():
        field = refused.get(name)
        if field is not None and field.asked(value):
            instead = f": {field.instead}" if field.instead else ""
            raise InvalidRequest(f"'{name}' is not supported{instead}.", name, "unsupported_parameter")


def _parse(raw: bytes | bytearray, context: ServerContext) -> dict[str, Any]:
    """Parse a body, and log it. Raises `ApiError`."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}.", code="invalid_json") from None
    _log_body(raw, context)
    if not isinstance(value, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_type")
    return value


def _validated(
    value: dict[str, Any], raw: bytes | bytearray, commas: int, context: ServerContext, model: type[T]
) -> T:
    """Check the budget and depth of a body with so many commas, and validate it."""
    # Brackets bound the depth and, with commas, the number of values; counting them needs no walk.
    brackets = raw.count(b"[") + raw.count(b"{")
    info = None if len(raw) < _LARGE else context.engine_info
    settings = context.settings
    check_budget(value, settings.limits, brackets, commas, info)
    limit = settings.max_json_depth
    if brackets > limit and deeper_than(value, limit):
        raise ApiError(400, f"The body is nested deeper than {limit} levels.", code="invalid_json")
    return model.model_validate(value)


def _log_body(raw: bytes | bytearray, context: ServerContext) -> None:
    if context.settings.log_bodies:
        about = {"request_id": request_id.get(), "body": raw.decode("utf-8", "replace")}
        log.info("body", extra=fields(about))


def deeper_than(value: Any, limit: int) -> bool:
    """Whether arrays and objects are nested more than `limit` levels deep."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(limit + 1):
        children: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                children += item.values()
            elif not _NESTING.isdisjoint(map(type, item)):  # skip long arrays of numbers
                children += item
        level = [child for child in children if isinstance(child, (dict, list))]
        if not level:
            return False
    return True


def ignored_params(body: RequestModel, left_out: Iterable[str] = ()) -> dict[str, str]:
    """The response header that lists what is ignored, which is logged too; empty if there is nothing.

    That is unknown fields, also of an object in a known one, and what a route has `left_out` of known ones.
    """
    extra = (body.model_extra or {}).keys() - refused_fields(type(body)).keys()
    values = vars(body)
    within = (
        f"{name}.{key}"
        for name in body.model_fields_set
        if isinstance(part := values.get(name), RequestModel)
        for key in part.model_extra or ()
    )
    names = [*sorted(extra), *sorted(within), *left_out]
    if not names:
        return {}
    text = ", ".join(name for name in names if name.isascii() and name.isprintable() and len(name) <= 64)
    if not text:
        return {}
    log.info("ignored", extra=fields({"request_id": request_id.get(), "params": text[:1024]}))
    return {IGNORED_HEADER: text[:1024]}


def documented(model: type[RequestModel]) -> dict[str, Any]:
    """`openapi_extra` for a route that reads its body with `read_body`; see `api.openapi`."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
