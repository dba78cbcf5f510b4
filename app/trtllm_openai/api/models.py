"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from fastapi import APIRouter, Request

from trtllm_openai.api.context import ServerContext
from trtllm_openai.generation import EngineInfo
from trtllm_openai.protocol.common import EngineCard, ModelCard, ModelList

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    """The served model under each of its ids, and its LoRA adapters. Answers from the first moment;
    max_model_len is null until an engine is ready.
    """
    context: ServerContext = request.app.state.context
    ids = [context.model_id, *context.settings.aliases, *context.adapters]
    return ModelList(data=[_card(context, id) for id in ids], first_id=ids[0], last_id=ids[-1])


@router.get("/v1/models/{model:path}")
async def get_model(request: Request, model: str) -> ModelCard:
    """One model by its id."""
    context: ServerContext = request.app.state.context
    context.check_model(model)
    return _card(context, model)


def _engine(context: ServerContext, info: EngineInfo) -> EngineCard:
    return EngineCard(
        engine=info.engine,
        architecture=info.architecture,
        dtype=info.dtype,
        max_model_len=info.max_seq_len,
        max_batch_size=info.max_batch_size,
        tensor_parallel=info.tensor_parallel,
        pipeline_parallel=info.pipeline_parallel,
        tool_parser=context.chat.tool_format if context.chat else None,
        reasoning_parser=context.chat.reasoning_format if context.chat else None,
        default_sampling=dict(context.loaded().defaults),
        capabilities=msgspec.to_builtins(info.capabilities),
    )


def _card(context: ServerContext, model: str) -> ModelCard:
    info = context.engine_info
    return ModelCard(
        id=model,
        created=context.created,
        display_name=model,
        created_at=datetime.fromtimestamp(context.created, UTC).isoformat().replace("+00:00", "Z"),
        owned_by="trtllm-openai-server",
        root=context.model_id,
        parent=context.model_id if model in context.adapters else None,
        max_model_len=info.max_seq_len if info else None,
        trtllm_openai=_engine(context, info) if info else None,
    )
