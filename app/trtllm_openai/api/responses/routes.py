"""The routes of `/v1/responses`."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from trtllm_openai.api.body import documented, ignored_params, read_body
from trtllm_openai.api.chat import start_chat
from trtllm_openai.api.conversation import prepare
from trtllm_openai.api.disconnect import while_connected
from trtllm_openai.api.errors import ApiError, from_exception
from trtllm_openai.api.job import Choice, Delta, Job
from trtllm_openai.api.logprobs import chat_logprobs
from trtllm_openai.api.params import check_model
from trtllm_openai.api.responses.items import from_output, renamed, to_chat, to_messages
from trtllm_openai.api.responses.store import ResponseStore, Stored
from trtllm_openai.api.responses.writer import ResponseWriter, StreamEvent, new_response
from trtllm_openai.api.sse import json_bytes
from trtllm_openai.api.stream import JobStream
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.common import JsonObject
from trtllm_openai.protocol.responses import InputItems, ResponseDeleted, ResponseObject, ResponsesRequest
from trtllm_openai.serve.state import InferenceService
from trtllm_openai.text.choice import TextDelta
from trtllm_openai.text.events import Content

router = APIRouter()


@router.post("/v1/responses", response_model=ResponseObject, openapi_extra=documented(ResponsesRequest))
async def create_response(request: Request) -> Response:
    """Answer, with the conversation so far taken from `previous_response_id`."""
    started = time.perf_counter()
    service: InferenceService = request.app.state.service
    store: ResponseStore = request.app.state.responses
    body = await read_body(request, ResponsesRequest)
    check_model(service, body.model)
    _check(body)
    headers = ignored_params(body)
    before = await _history(store, body.previous_response_id)
    own = to_messages(body.input)
    messages = before + own
    instructions = [{"role": "system", "content": body.instructions}] if body.instructions else []
    try:
        chat = ChatRequest.model_validate(to_chat(body, instructions + messages))
        conversation = await prepare(service, chat, chat.max_completion_tokens)
        job = start_chat(request, chat, conversation, started)
    except (InvalidRequest, ValidationError) as error:
        raise _in_own_terms(error, len(instructions) + len(before)) from None
    answer = new_response(body, store.new_id(), service.model_id)
    stored = Stored(answer, _input_items(body.input), messages)
    run = _Run(job, ResponseWriter(stored.response), store if body.store is not False else None, stored)
    if body.background:
        return run.in_background(headers)
    try:
        if job.guided:
            await while_connected(request, job.accepted())
        if not body.stream:
            await while_connected(request, run.to_the_end())
            job.close()
    except BaseException as error:
        job.close()
        if isinstance(error, InvalidRequest):
            raise _in_own_terms(error, len(instructions) + len(before)) from None
        raise
    if body.stream:
        return run.response(headers)
    headers = headers | job.timing_header()
    return Response(json_bytes(stored.response), headers=headers, media_type="application/json")


@router.get("/v1/responses/{response_id}")
async def get_response(request: Request, response_id: str) -> ResponseObject:
    """A stored answer as it stands."""
    store: ResponseStore = request.app.state.responses
    return ResponseObject.model_validate((await store.get(response_id)).response)


@router.get("/v1/responses/{response_id}/input_items")
async def list_input_items(request: Request, response_id: str) -> InputItems:
    """What a stored answer was given."""
    store: ResponseStore = request.app.state.responses
    items = (await store.get(response_id)).input_items
    ids = [item["id"] for item in items] or [None]
    return InputItems(data=items, first_id=ids[0], last_id=ids[-1])


@router.delete("/v1/responses/{response_id}")
async def delete_response(request: Request, response_id: str) -> ResponseDeleted:
    """Forget a stored answer; if it is still being generated, that ends."""
    store: ResponseStore = request.app.state.responses
    await store.delete(response_id)
    return ResponseDeleted(id=response_id)


@router.post("/v1/responses/{response_id}/cancel")
async def cancel_response(request: Request, response_id: str) -> ResponseObject:
    """End an answer that is generated in the background."""
    store: ResponseStore = request.app.state.responses
    if not (await store.get(response_id)).response["background"]:
        raise InvalidRequest("Only a response with background: true can be cancelled.", "response_id")
    return ResponseObject.model_validate((await store.cancel(response_id)).response)


class _Run(JobStream):
    """A job on its way to a response object, told as a stream or not."""

    def __init__(self, job: Job, writer: ResponseWriter, store: ResponseStore | None, stored: Stored) -> None:
        super().__init__(job)
        self.writer = writer
        self.store = store
        self.stored = stored

    def to_the_end(self) -> asyncio.Future[None]:
        """Generate without telling. Raises what the job raises."""
        teller = _Silent(self)
        self.job.run(teller)
        return teller.done

    def in_background(self, headers: dict[str, str]) -> Response:
        """Answer now and generate on."""
        assert self.store is not None
        self.job.record.detached = True
        self.stored.task = asyncio.create_task(self._on_its_own())
        self.store.put(self.stored)
        return Response(json_bytes(self.stored.response), headers=headers, media_type="application/json")

    def opening(self) -> bytes:
        return _frames(self.writer.begin())

    def frames(self, deltas: list[Delta]) -> bytes:
        return _frames(self.events(deltas))

    def tail(self) -> bytes:
        return b""

    def failure(self, error: Exception) -> bytes:
        return _frames([self._error_event(from_exception(error))])

    def events(self, deltas: list[Delta]) -> list[StreamEvent]:
        """What new text adds to the response, and to the stream of its events."""
        events: list[StreamEvent] = []
        for choice, delta in deltas:
            events += self._of_delta(choice, delta)
            if delta.finish_reason is not None:
                events += self.writer.finish(delta.finish_reason, self.job.usage())
                self._keep()
        return events

    def _of_delta(self, choice: Choice, delta: TextDelta) -> list[StreamEvent]:
        logprobs = None
        if delta.logprobs:
            logprobs = chat_logprobs(self.job.service.tokenizer, delta.logprobs)["content"]
        found = delta.events if choice.decoder.parsed else [Content(delta.text)]
        if logprobs and not any(isinstance(event, Content) for event in found):
            logprobs = None  # the text these tokens stand for is not content
        events: list[StreamEvent] = []
        for event in found:
            if isinstance(event, Content):
                events += self.writer.add(event, logprobs)
                logprobs = None
            else:
                events += self.writer.add(event)
        return events

    async def _on_its_own(self) -> None:
        try:
            await self.to_the_end()
        except asyncio.CancelledError:
            self.writer.fail("cancelled", None, "")
        except Exception as error:
            fault = from_exception(error)
            self.writer.fail("failed", fault.code, fault.message)
        finally:
            self.job.close()
            self.stored.task = None
            record = self.job.record
            record.seconds = time.perf_counter() - record.begun
            record.log()
            if (tracer := self.job.service.tracer) is not None:
                tracer.record(record, self.job.service.model_id)

    def _keep(self) -> None:
        self.stored.messages = self.stored.messages + from_output(self.stored.response["output"])
        if self.store is not None and self.stored.task is None:
            self.store.put(self.stored)

    def _error_event(self, error: ApiError) -> StreamEvent:
        self.writer.fail("failed", error.code, error.message)
        detail = error.detail()
        number = self.writer.next_number()
        return {**detail, "type": "error", "sequence_number": number, "error": detail}


class _Silent:
    """Takes a job's text without telling anybody; implements `api.job.Consumer`."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def consume(self, deltas: list[Delta]) -> None:
        self._run.events(deltas)

    def ended(self, error: Exception | None) -> None:
        if self.done.done():  # nobody waits any more
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)


def _in_own_terms(error: Exception, before: int) -> ApiError:
    fault = from_exception(error)
    fault.param = renamed(fault.param, before)
    return fault


def _frames(events: list[StreamEvent]) -> bytes:
    return b"".join(
        b"event: " + event["type"].encode() + b"\ndata: " + json_bytes(event) + b"\n\n" for event in events
    )


async def _history(store: ResponseStore, previous: str | None) -> list[dict[str, Any]]:
    if previous is None:
        return []
    stored = await store.get(previous, "previous_response_id")
    if stored.response["status"] not in ("completed", "incomplete"):
        raise InvalidRequest(
            f"Response '{previous}' is {stored.response['status']}: there is nothing to go on from.",
            "previous_response_id",
        )
    return stored.messages


def _input_items(given: str | list[JsonObject]) -> list[JsonObject]:
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    return [{"id": f"item_{uuid.uuid4().hex}", "type": "message", **item} for item in given]


def _check(body: ResponsesRequest) -> None:
    if body.background and body.stream:
        raise InvalidRequest("background and stream exclude each other here.", "background")
    if body.background and body.store is False:
        raise InvalidRequest("background needs store: true.", "background")
    if body.truncation not in (None, "auto", "disabled"):
        raise InvalidRequest("'truncation' must be auto or disabled.", "truncation")
    effort = (body.reasoning or {}).get("effort")
    if effort is not None and not isinstance(effort, str):
        raise InvalidRequest("'reasoning.effort' must be a text.", "reasoning.effort", "invalid_type")
    form = (body.text or {}).get("format")
    if form is not None and not isinstance(form, dict):
        raise InvalidRequest("'text.format' must be an object.", "text.format", "invalid_type")
