"""The routes of `/v1/responses`."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from trtllm_openai.api.body import documented, ignored_params, read_body
from trtllm_openai.api.chat import start_chat
from trtllm_openai.api.context import ServerContext
from trtllm_openai.api.disconnect import while_connected
from trtllm_openai.api.middleware import api_key_name
from trtllm_openai.api.responses.compact import with_summary_length
from trtllm_openai.api.responses.references import item_id
from trtllm_openai.api.responses.request import prepare_request
from trtllm_openai.api.responses.run import EventFormatter, ResponseRun
from trtllm_openai.api.responses.store import ResponseStore, Stored
from trtllm_openai.api.responses.writer import CompactionWriter, ResponseWriter, new_response
from trtllm_openai.api.sse import SseResponse, json_bytes
from trtllm_openai.api.stream import RunStream
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.common import JsonObject
from trtllm_openai.protocol.responses import (
    InputItems,
    InputTokens,
    InputTokensRequest,
    ResponseDeleted,
    ResponseObject,
    ResponsesRequest,
)

router = APIRouter()


@router.post("/v1/responses", response_model=ResponseObject, openapi_extra=documented(ResponsesRequest))
async def create_response(request: Request) -> Response:
    """Create a response, optionally continuing the conversation of `previous_response_id`."""
    started = time.perf_counter()
    context: ServerContext = request.app.state.context
    store: ResponseStore = request.app.state.responses
    body = await read_body(request, ResponsesRequest)
    context.check_model(body.model)
    prepared = await prepare_request(request, body)
    headers = ignored_params(body, prepared.left_out)
    try:
        chat = with_summary_length(request, prepared) if prepared.compacting else prepared.chat
        run = start_chat(request, chat, prepared.model, prepared.conversation, started)
    except InvalidRequest as error:
        raise prepared.names.error(error) from None
    answer = new_response(body, store.new_id(), prepared.model.id, prepared.model.defaults)
    stored = Stored(answer, _input_items(body.input, answer["id"]), prepared.messages, api_key_name(request))
    writer = (
        CompactionWriter(answer) if prepared.compacting else ResponseWriter(answer, prepared.tools.by_name)
    )
    response = ResponseRun(
        run,
        prepared.model,
        writer,
        store if body.store is not False else None,
        stored,
        prepared.names,
    )
    if body.background:
        return response.in_background(context, headers)
    try:
        if run.guided:
            await while_connected(request, run.accepted())
        if not body.stream:
            await while_connected(request, response.complete())
            run.close()
    except BaseException as error:
        run.close()
        if isinstance(error, InvalidRequest):
            raise prepared.names.error(error) from None
        raise
    if body.stream:
        source = RunStream(run, lambda writer: EventFormatter(writer, response))
        return SseResponse(source, context.settings.ping_interval, headers)
    headers = headers | run.accounting.timing_header()
    return Response(json_bytes(stored.response), headers=headers, media_type="application/json")


@router.post(
    "/v1/responses/input_tokens", response_model=InputTokens, openapi_extra=documented(InputTokensRequest)
)
async def count_input_tokens(request: Request) -> Response:
    """The number of tokens that the input of a response would have; nothing is generated."""
    context: ServerContext = request.app.state.context
    body = await read_body(request, InputTokensRequest)
    context.check_model(body.model)
    prepared = await prepare_request(request, body)
    counted = {"object": "response.input_tokens", "input_tokens": len(prepared.conversation.token_ids)}
    headers = ignored_params(body, prepared.left_out)
    return Response(json_bytes(counted), headers=headers, media_type="application/json")


@router.get("/v1/responses/{response_id}")
async def get_response(request: Request, response_id: str) -> ResponseObject:
    """A stored response in its current state."""
    store: ResponseStore = request.app.state.responses
    return ResponseObject.model_validate((await store.get(response_id, api_key_name(request))).response)


@router.get("/v1/responses/{response_id}/input_items")
async def list_input_items(request: Request, response_id: str) -> InputItems:
    """The input items of a stored response."""
    store: ResponseStore = request.app.state.responses
    items = (await store.get(response_id, api_key_name(request))).input_items
    ids = [item["id"] for item in items] or [None]
    return InputItems(data=items, first_id=ids[0], last_id=ids[-1])


@router.delete("/v1/responses/{response_id}")
async def delete_response(request: Request, response_id: str) -> ResponseDeleted:
    """Delete a stored response; if it is still being generated, cancel it."""
    store: ResponseStore = request.app.state.responses
    await store.delete(response_id, api_key_name(request))
    return ResponseDeleted(id=response_id)


@router.post("/v1/responses/{response_id}/cancel")
async def cancel_response(request: Request, response_id: str) -> ResponseObject:
    """Cancel a response that is being generated in the background."""
    store: ResponseStore = request.app.state.responses
    key = api_key_name(request)
    if not (await store.get(response_id, key)).response["background"]:
        raise InvalidRequest("Only a response with background: true can be cancelled.", "response_id")
    return ResponseObject.model_validate((await store.cancel(response_id, key)).response)


def _input_items(given: str | list[JsonObject], response_id: str) -> list[JsonObject]:
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    return [
        {"id": item_id("item", response_id, number), "type": "message", **item}
        for number, item in enumerate(given)
    ]
