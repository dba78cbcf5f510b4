"""The routes of `/v1/messages`."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from trtllm_openai.api.body import BODY_SIZE, documented, ignored_params, read_body
from trtllm_openai.api.chat import start_chat
from trtllm_openai.api.choice import Delta
from trtllm_openai.api.collect import consumed
from trtllm_openai.api.context import ServerContext
from trtllm_openai.api.conversation import prepare
from trtllm_openai.api.disconnect import while_connected
from trtllm_openai.api.errors import from_exception
from trtllm_openai.api.messages.translate import Translation, translate
from trtllm_openai.api.messages.writer import MessageWriter, StreamEvent, new_message
from trtllm_openai.api.prefixes import prefix_salt
from trtllm_openai.api.run import RequestRun
from trtllm_openai.api.sse import SseResponse, SseWriter, json_bytes, typed_frames
from trtllm_openai.api.stream import RunStream, StreamFormatter, merged
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.messages import CountTokensRequest, MessageObject, MessagesRequest, TokenCount
from trtllm_openai.text.events import Content

router = APIRouter()

PING = b'event: ping\ndata: {"type":"ping"}\n\n'


@router.post("/v1/messages", response_model=MessageObject, openapi_extra=documented(MessagesRequest))
async def create_message(request: Request) -> Response:
    """Create a message."""
    started = time.perf_counter()
    context: ServerContext = request.app.state.context
    body = await read_body(request, MessagesRequest)
    context.check_model(body.model)
    model = context.loaded(body.model)
    translation = translate(body, budgets=model.info.capabilities.thinking_budget)
    salt = prefix_salt(request, body.cache_salt)
    try:
        chat = ChatRequest.model_validate(translation.chat)
        strictness = context.settings.tool_strict
        size = request.scope[BODY_SIZE]
        conversation = await prepare(model, chat, body.max_tokens, salt, size, strictness)
        run = start_chat(request, chat, model, conversation, started)
    except (InvalidRequest, ValidationError) as error:
        raise translation.renamed(from_exception(error)) from None
    left_out = [*translation.left_out, *map(translation.own_name, conversation.form.left_out)]
    headers = ignored_params(body, left_out)
    shown = body.thinking is None or body.thinking.display != "omitted"
    answer = _Answer(run, MessageWriter(new_message(model.id), shown))
    try:
        if run.guided:
            await while_connected(request, run.accepted())
        if not body.stream:
            await while_connected(request, consumed(run, answer.events))
            run.close()
    except BaseException as error:
        run.close()
        if isinstance(error, InvalidRequest):
            raise translation.renamed(from_exception(error)) from None
        raise
    if body.stream:
        source = RunStream(run, lambda writer: _EventFormatter(writer, answer, translation))
        return SseResponse(source, context.settings.ping_interval, headers, ping=PING)
    headers = headers | run.accounting.timing_header()
    return Response(json_bytes(answer.writer.message), headers=headers, media_type="application/json")


@router.post(
    "/v1/messages/count_tokens", response_model=TokenCount, openapi_extra=documented(CountTokensRequest)
)
async def count_tokens(request: Request) -> Response:
    """The number of tokens of the prompt that a request becomes, without generation."""
    context: ServerContext = request.app.state.context
    body = await read_body(request, CountTokensRequest)
    context.check_model(body.model)
    model = context.loaded(body.model)
    translation = translate(body, budgets=model.info.capabilities.thinking_budget)
    try:
        chat = ChatRequest.model_validate(translation.chat)
        salt = prefix_salt(request, None)
        conversation = await prepare(model, chat, None, salt, request.scope[BODY_SIZE])
    except (InvalidRequest, ValidationError) as error:
        raise translation.renamed(from_exception(error)) from None
    count = {"input_tokens": len(conversation.token_ids)}
    headers = ignored_params(body, translation.left_out)
    return Response(json_bytes(count), headers=headers, media_type="application/json")


class _Answer:
    """A run on its way to a message, streamed or whole."""

    def __init__(self, run: RequestRun, writer: MessageWriter) -> None:
        self.run = run
        self.writer = writer

    def events(self, deltas: list[Delta]) -> list[StreamEvent]:
        """Add new text to the message. Returns the events that a stream sends for it."""
        events: list[StreamEvent] = []
        for choice, delta in merged(deltas):
            for event in delta.events if choice.decoder.parsed else [Content(delta.text)]:
                events += self.writer.add(event)
            if delta.finish_reason is not None:
                usage = self.run.accounting.usage()
                events += self.writer.finish(delta.finish_reason, delta.stop_reason, usage)
        return events


class _EventFormatter(StreamFormatter):
    """Anthropic's events: message_start, the blocks, message_delta, message_stop."""

    def __init__(self, writer: SseWriter, answer: _Answer, translation: Translation) -> None:
        super().__init__(writer)
        self._answer = answer
        self._translation = translation
        self._opened = False

    def frames(self, deltas: list[Delta]) -> bytes:
        opening = b""
        if not self._opened:  # it comes with the first text, so that a refusal is no stream
            self._opened = True
            usage = self._answer.run.accounting.usage(final=False)
            opening = typed_frames(self._answer.writer.begin(usage))
        return opening + typed_frames(self._answer.events(deltas))

    def tail(self) -> bytes:
        return b""

    def failure(self, error: Exception) -> bytes:
        fault = self._translation.renamed(from_exception(error))
        return b"event: error\ndata: " + fault.body() + b"\n\n"
