"""POST /tokenize and /detokenize."""

from __future__ import annotations

from fastapi import APIRouter, Request

from trtllm_openai.api.body import documented, read_body
from trtllm_openai.api.conversation import prepare
from trtllm_openai.api.params import check_model, encode
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation.build import check_token_ids
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.tokens import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)
from trtllm_openai.serve.state import InferenceService

router = APIRouter()


@router.post("/tokenize", openapi_extra=documented(TokenizeRequest))
async def tokenize(request: Request) -> TokenizeResponse:
    """The tokens of a text, or of a conversation as the model would see it."""
    service: InferenceService = request.app.state.service
    body = await read_body(request, TokenizeRequest)
    check_model(service, body.model)
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("Give either prompt or messages.", "prompt")
    if body.prompt is not None:
        tokens = await encode(service, body.prompt, add_special_tokens=body.add_special_tokens is not False)
    else:
        fields = {"messages", "tools", "add_generation_prompt", "continue_final_message"}
        chat = body.model_dump(
            include=fields | {"chat_template_kwargs", "add_special_tokens"}, exclude_none=True
        )
        tokens = (await prepare(service, ChatRequest.model_validate(chat), None)).token_ids
    texts = [service.tokenizer.token_text(token) for token in tokens] if body.return_token_strs else None
    return TokenizeResponse(
        count=len(tokens), max_model_len=service.info.max_seq_len, tokens=tokens, token_strs=texts
    )


@router.post("/detokenize", openapi_extra=documented(DetokenizeRequest))
async def detokenize(request: Request) -> DetokenizeResponse:
    """The text of tokens; special tokens have none."""
    service: InferenceService = request.app.state.service
    body = await read_body(request, DetokenizeRequest)
    check_model(service, body.model)
    check_token_ids(service.info, body.tokens, "tokens")
    return DetokenizeResponse(prompt=service.tokenizer.decode(body.tokens))
