"""POST /tokenize and /detokenize."""

from __future__ import annotations

from fastapi import APIRouter, Request

from trtllm_openai.api.body import documented, read_body
from trtllm_openai.api.context import ServerContext
from trtllm_openai.api.conversation import encode, prepare
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation.build import check_token_ids
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.tokens import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)

router = APIRouter()


@router.post("/tokenize", openapi_extra=documented(TokenizeRequest))
async def tokenize(request: Request) -> TokenizeResponse:
    """Tokenize a text, or a conversation as it is rendered for the model."""
    context: ServerContext = request.app.state.context
    body = await read_body(request, TokenizeRequest)
    context.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("Give either prompt or messages.", "prompt")
    model = context.loaded(body.model)
    if body.prompt is not None:
        tokens = await encode(model, body.prompt, add_special_tokens=body.add_special_tokens is not False)
    else:
        fields = {"messages", "tools", "add_generation_prompt", "continue_final_message"}
        chat = body.model_dump(
            include=fields | {"chat_template_kwargs", "add_special_tokens"}, exclude_none=True
        )
        tokens = (await prepare(model, ChatRequest.model_validate(chat), None)).token_ids
    texts = [model.tokenizer.token_text(token) for token in tokens] if body.return_token_strs else None
    return TokenizeResponse(
        count=len(tokens), max_model_len=model.info.max_seq_len, tokens=tokens, token_strs=texts
    )


@router.post("/detokenize", openapi_extra=documented(DetokenizeRequest))
async def detokenize(request: Request) -> DetokenizeResponse:
    """The text of token ids; special tokens have none."""
    context: ServerContext = request.app.state.context
    body = await read_body(request, DetokenizeRequest)
    context.check_model(body.model)
    model = context.loaded(body.model)
    check_token_ids(model.info, body.tokens, "tokens")
    return DetokenizeResponse(prompt=model.tokenizer.decode(body.tokens))
