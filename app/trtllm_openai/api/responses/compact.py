"""`/v1/responses/compact`: the model summarizes a conversation, as it does for a `compaction_trigger`."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from trtllm_openai.api.body import documented, ignored_params, read_body
from trtllm_openai.api.chat import start_chat
from trtllm_openai.api.collect import collect
from trtllm_openai.api.context import ServerContext
from trtllm_openai.api.disconnect import while_connected
from trtllm_openai.api.ids import new_id
from trtllm_openai.api.middleware import sender_of
from trtllm_openai.api.responses.compaction import MAX_SUMMARY_TOKENS, TASK, compaction_item
from trtllm_openai.api.responses.items import Message
from trtllm_openai.api.responses.references import item_id
from trtllm_openai.api.responses.request import Prepared, prepare_request
from trtllm_openai.api.responses.writer import response_usage
from trtllm_openai.api.sse import json_bytes
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.common import JsonObject
from trtllm_openai.protocol.responses import CompactedResponse, CompactRequest

router = APIRouter()


@router.post(
    "/v1/responses/compact", response_model=CompactedResponse, openapi_extra=documented(CompactRequest)
)
async def compact(request: Request) -> Response:
    """Summarize a conversation: its user messages, and an item that stands for all of it in later input."""
    started = time.perf_counter()
    context: ServerContext = request.app.state.context
    body = await read_body(request, CompactRequest)
    context.check_model(body.model)
    prepared = await prepare_request(request, body, TASK)
    try:
        chat = with_summary_length(request, prepared)
        run = start_chat(request, chat, prepared.model, prepared.conversation, started)
        try:
            (answer,) = await while_connected(request, collect(run))
        finally:
            run.close()
    except InvalidRequest as error:
        raise prepared.names.error(error) from None
    response_id = f"resp_{new_id()}"
    output = _kept(prepared.messages, response_id)
    output.append(compaction_item(answer.content.strip(), item_id("cmp", response_id, len(output))))
    compacted = {
        "id": response_id,
        "object": "response.compaction",
        "created_at": int(time.time()),
        "output": output,
        "usage": response_usage(run.accounting.usage()),
    }
    headers = ignored_params(body, prepared.left_out) | run.accounting.timing_header()
    return Response(json_bytes(compacted), headers=headers, media_type="application/json")


def with_summary_length(request: Request, prepared: Prepared) -> ChatRequest:
    """The chat request for a summary: of what is left of the context and of the key's limit, at most."""
    tenant, _ = sender_of(request)
    left = prepared.model.info.max_seq_len - len(prepared.conversation.token_ids)
    allowed = [MAX_SUMMARY_TOKENS, left, tenant.limits.max_tokens, prepared.chat.max_completion_tokens]
    length = max(1, min(one for one in allowed if one is not None))
    return prepared.chat.model_copy(update={"max_completion_tokens": length})


def _kept(messages: list[Message], response_id: str) -> list[JsonObject]:
    """The user's messages as items."""
    found: list[JsonObject] = []
    for message in messages:
        if message.get("role") == "user":
            content = message["content"]
            parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else content
            found.append(
                {
                    "id": item_id("msg", response_id, len(found)),
                    "type": "message",
                    "role": "user",
                    "status": "completed",
                    "content": parts,
                }
            )
    return found
