"""POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from trtllm_openai.api.body import BODY_SIZE, documented, ignored_params, read_body
from trtllm_openai.api.context import ServerContext
from trtllm_openai.api.conversation import encode, off_loop, prepare
from trtllm_openai.api.prefixes import prefix_salt
from trtllm_openai.api.sse import json_bytes
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation.build import check_token_ids
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.common import RequestModel
from trtllm_openai.protocol.tokens import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)

router = APIRouter()


_FOR_TEMPLATE = (
    "tools",
    "tool_choice",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
    "documents",
    "reasoning_effort",
)
_CHAT_FIELDS = ("messages", "add_special_tokens", *_FOR_TEMPLATE)


@router.post("/tokenize", response_model=TokenizeResponse, openapi_extra=documented(TokenizeRequest))
async def tokenize(request: Request) -> Response:
    """Tokenize a text, or a conversation as it is rendered for the model."""
    context: ServerContext = request.app.state.context
    body = await read_body(request, TokenizeRequest)
    context.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("Give either prompt or messages.", "prompt")
    model = context.loaded(body.model)
    size = request.scope[BODY_SIZE]
    salt = prefix_salt(request, None)
    if body.prompt is not None:
        _refuse_template_fields(body)
        special = body.add_special_tokens is not False
        tokens = await encode(model, body.prompt, "prompt", add_special_tokens=special, salt=salt)
    else:
        fields = vars(body)
        chat = {name: fields[name] for name in _CHAT_FIELDS if fields[name] is not None}
        tokens = (await prepare(model, ChatRequest.model_validate(chat), None, salt, size)).token_ids
    text_of = model.tokenizer.token_text
    texts = None
    if body.return_token_strs:
        texts = await off_loop(size, lambda: [text_of(token) for token in tokens])
    return _json(
        {
            "count": len(tokens),
            "max_model_len": model.info.max_seq_len,
            "tokens": tokens,
            "token_strs": texts,
        },
        body,
    )


@router.post("/detokenize", response_model=DetokenizeResponse, openapi_extra=documented(DetokenizeRequest))
async def detokenize(request: Request) -> Response:
    """The text of token ids; special tokens have none, unless asked for."""
    context: ServerContext = request.app.state.context
    body = await read_body(request, DetokenizeRequest)
    context.check_model(body.model)
    model = context.loaded(body.model)

    def decoded() -> str:
        check_token_ids(model.info, body.tokens, "tokens")
        return model.tokenizer.decode(body.tokens, special=body.skip_special_tokens is False)

    return _json({"prompt": await off_loop(request.scope[BODY_SIZE], decoded)}, body)


def _refuse_template_fields(body: TokenizeRequest) -> None:
    """Raise `InvalidRequest` for a field of a chat beside a text, which no template renders."""
    fields = vars(body)
    for name in _FOR_TEMPLATE:
        if fields[name]:
            raise InvalidRequest(
                f"'{name}' is not supported for a prompt, which is tokenized as it is: use messages.",
                name,
                "unsupported_parameter",
            )


def _json(answer: dict[str, Any], body: RequestModel) -> Response:
    """The answer as it is: validation by FastAPI takes a microsecond for each token."""
    return Response(json_bytes(answer), headers=ignored_params(body), media_type="application/json")
