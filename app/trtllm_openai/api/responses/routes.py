"""The routes of `/v1/responses`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from trtllm_openai.api.body import BODY_SIZE, documented, ignored_params, read_body
from trtllm_openai.api.budget import check_messages
from trtllm_openai.api.chat import start_chat
from trtllm_openai.api.choice import Choice, Delta
from trtllm_openai.api.context import LoadedModel, ServerContext
from trtllm_openai.api.conversation import PREPARE_OFF_LOOP, prepare
from trtllm_openai.api.disconnect import while_connected
from trtllm_openai.api.errors import ApiError, from_exception
from trtllm_openai.api.ids import new_id
from trtllm_openai.api.logprobs import chat_logprobs
from trtllm_openai.api.middleware import api_key_name
from trtllm_openai.api.prefixes import prefix_salt
from trtllm_openai.api.responses.items import from_output, renamed, to_chat, to_messages
from trtllm_openai.api.responses.store import ResponseStore, Stored
from trtllm_openai.api.responses.writer import ResponseWriter, StreamEvent, new_response
from trtllm_openai.api.run import RequestRun
from trtllm_openai.api.sse import SseResponse, SseWriter, json_bytes
from trtllm_openai.api.stream import RunStream, StreamFormatter
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.common import JsonObject
from trtllm_openai.protocol.responses import InputItems, ResponseDeleted, ResponseObject, ResponsesRequest
from trtllm_openai.telemetry.traces import Tracer
from trtllm_openai.text.choice import TextDelta
from trtllm_openai.text.events import Content

router = APIRouter()


@router.post("/v1/responses", response_model=ResponseObject, openapi_extra=documented(ResponsesRequest))
async def create_response(request: Request) -> Response:
    """Create a response, optionally continuing the conversation of `previous_response_id`."""
    started = time.perf_counter()
    context: ServerContext = request.app.state.context
    store: ResponseStore = request.app.state.responses
    body = await read_body(request, ResponsesRequest)
    context.check_model(body.model)
    _check(body)
    headers = ignored_params(body)
    key = api_key_name(request)
    before = await _history(store, body.previous_response_id, key)
    own = to_messages(body.input)
    messages = before + own
    check_messages(len(messages), context.settings.limits, "input")
    instructions = [{"role": "system", "content": body.instructions}] if body.instructions else []
    try:
        chat = ChatRequest.model_validate(to_chat(body, instructions + messages))
        model = context.loaded(body.model)
        # The messages of earlier responses are not in the body, so their size is not known.
        size = max(request.scope[BODY_SIZE], PREPARE_OFF_LOOP if before else 0)
        salt = prefix_salt(request, chat.cache_salt)
        conversation = await prepare(model, chat, chat.max_completion_tokens, salt, size)
        run = start_chat(request, chat, model, conversation, started)
    except (InvalidRequest, ValidationError) as error:
        raise _renamed_error(error, len(instructions) + len(before)) from None
    answer = new_response(body, store.new_id(), model.id)
    stored = Stored(answer, _input_items(body.input), messages, key)
    response = _ResponseRun(
        run, model, ResponseWriter(stored.response), store if body.store is not False else None, stored
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
            raise _renamed_error(error, len(instructions) + len(before)) from None
        raise
    if body.stream:
        source = RunStream(run, lambda writer: _EventFormatter(writer, response))
        return SseResponse(source, context.settings.ping_interval, headers)
    headers = headers | run.accounting.timing_header()
    return Response(json_bytes(stored.response), headers=headers, media_type="application/json")


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


class _ResponseRun:
    """A run on its way to a response object: streamed, complete or in the background.

    `store` None: the response is not stored.
    """

    def __init__(
        self,
        run: RequestRun,
        model: LoadedModel,
        writer: ResponseWriter,
        store: ResponseStore | None,
        stored: Stored,
    ) -> None:
        self.run = run
        self.writer = writer
        self._model = model
        self._store = store
        self._stored = stored

    def complete(self) -> asyncio.Future[None]:
        """Start the run. The future completes at its end, with its error if it fails."""
        collector = _Collector(self)
        self.run.start(collector)
        return collector.done

    def in_background(self, context: ServerContext, headers: dict[str, str]) -> Response:
        """Return the response in its current state, and generate in a background task."""
        assert self._store is not None
        self.run.accounting.record.detached = True
        self._stored.task = asyncio.create_task(self._generate(context.tracer))
        self._store.put(self._stored)
        return Response(json_bytes(self._stored.response), headers=headers, media_type="application/json")

    def events(self, deltas: list[Delta]) -> list[StreamEvent]:
        """Add new text to the response object. Returns the events that a stream sends for it."""
        events: list[StreamEvent] = []
        for choice, delta in deltas:
            events += self._delta_events(choice, delta)
            if delta.finish_reason is not None:
                events += self.writer.finish(delta.finish_reason, self.run.accounting.usage())
                self._keep()
        return events

    def _delta_events(self, choice: Choice, delta: TextDelta) -> list[StreamEvent]:
        logprobs = None
        if delta.logprobs:
            logprobs = chat_logprobs(self._model.tokenizer, delta.logprobs)["content"]
        found = delta.events if choice.decoder.parsed else [Content(delta.text)]
        if logprobs and not any(isinstance(event, Content) for event in found):
            logprobs = None  # the tokens are reasoning or a tool call, which have no log-probabilities here
        events: list[StreamEvent] = []
        for event in found:
            if isinstance(event, Content):
                events += self.writer.add(event, logprobs)
                logprobs = None
            else:
                events += self.writer.add(event)
        return events

    async def _generate(self, tracer: Tracer | None) -> None:
        try:
            await self.complete()
        except asyncio.CancelledError:
            self.writer.fail("cancelled", None, "")
        except Exception as error:
            fault = from_exception(error)
            self.writer.fail("failed", fault.code, fault.message)
        finally:
            self.run.close()
            self._stored.task = None
            if self._store is not None:
                self._store.generated(self._stored)
            record = self.run.accounting.record
            record.seconds = time.perf_counter() - record.begun
            record.log()
            if tracer is not None:
                tracer.record(record, self._model.id)

    def _keep(self) -> None:
        self._stored.messages = self._stored.messages + from_output(self._stored.response["output"])
        if self._store is not None and self._stored.task is None:
            self._store.put(self._stored)


class _EventFormatter(StreamFormatter):
    """The typed events of `/v1/responses` as frames."""

    def __init__(self, writer: SseWriter, response: _ResponseRun) -> None:
        super().__init__(writer)
        self._response = response
        self._opened = False

    def frames(self, deltas: list[Delta]) -> bytes:
        return self._opening() + _frames(self._response.events(deltas))

    def tail(self) -> bytes:
        return b""

    def failure(self, error: Exception) -> bytes:
        opening = self._opening()
        fault = from_exception(error)
        writer = self._response.writer
        writer.fail("failed", fault.code, fault.message)
        detail = fault.detail()
        event = {**detail, "type": "error", "sequence_number": writer.next_number(), "error": detail}
        return opening + _frames([event])

    def _opening(self) -> bytes:
        """The first events, once: they come with the first text, so that a refusal is no stream."""
        if self._opened:
            return b""
        self._opened = True
        return _frames(self._response.writer.begin())


class _Collector:
    """Adds a run's text to its response object without streaming; implements `api.run.Consumer`."""

    def __init__(self, response: _ResponseRun) -> None:
        self._response = response
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def consume(self, deltas: list[Delta], last: bool) -> None:
        self._response.events(deltas)

    def ended(self, error: Exception | None) -> None:
        if self.done.done():  # cancelled
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)


def _renamed_error(error: Exception, before: int) -> ApiError:
    """The error of the equivalent chat request, with the parameter's name in this endpoint."""
    fault = from_exception(error)
    fault.param = renamed(fault.param, before)
    return fault


def _frames(events: list[StreamEvent]) -> bytes:
    return b"".join(
        b"event: " + event["type"].encode() + b"\ndata: " + json_bytes(event) + b"\n\n" for event in events
    )


async def _history(store: ResponseStore, previous: str | None, key: str) -> list[dict[str, Any]]:
    if previous is None:
        return []
    stored = await store.get(previous, key, "previous_response_id")
    if stored.response["status"] not in ("completed", "incomplete"):
        raise InvalidRequest(
            f"Response '{previous}' is {stored.response['status']}: it cannot be continued.",
            "previous_response_id",
        )
    return stored.messages


def _input_items(given: str | list[JsonObject]) -> list[JsonObject]:
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    return [{"id": f"item_{new_id()}", "type": "message", **item} for item in given]


def _check(body: ResponsesRequest) -> None:
    if body.background and body.stream:
        raise InvalidRequest("background and stream cannot be combined.", "background")
    if body.background and body.store is False:
        raise InvalidRequest("background requires store: true.", "background")
    if body.truncation not in (None, "auto", "disabled"):
        raise InvalidRequest("'truncation' must be auto or disabled.", "truncation")
    effort = (body.reasoning or {}).get("effort")
    if effort is not None and not isinstance(effort, str):
        raise InvalidRequest("'reasoning.effort' must be a string.", "reasoning.effort", "invalid_type")
    form = (body.text or {}).get("format")
    if form is not None and not isinstance(form, dict):
        raise InvalidRequest("'text.format' must be an object.", "text.format", "invalid_type")
