"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request

from trtllm_openai.api.params import check_model
from trtllm_openai.generation import EngineInfo
from trtllm_openai.protocol.common import EngineCard, ModelCard, ModelList
from trtllm_openai.serve.state import InferenceService

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    """The served model. Answers from the first moment; max_model_len is null until an engine is ready."""
    return ModelList(data=[_card(request.app.state.service)])


@router.get("/v1/models/{model:path}")
async def get_model(request: Request, model: str) -> ModelCard:
    """One model by its id."""
    service: InferenceService = request.app.state.service
    check_model(service, model)
    return _card(service)


def _engine(service: InferenceService, info: EngineInfo) -> EngineCard:
    return EngineCard(
        engine=info.engine,
        architecture=info.architecture,
        dtype=info.dtype,
        max_model_len=info.max_seq_len,
        max_batch_size=info.max_batch_size,
        tensor_parallel=info.tensor_parallel,
        pipeline_parallel=info.pipeline_parallel,
        tool_parser=service.chat.tool_format,
        reasoning_parser=service.chat.reasoning_format,
        capabilities=msgspec.to_builtins(info.capabilities),
    )


def _card(service: InferenceService) -> ModelCard:
    info = service.engine_info
    return ModelCard(
        id=service.model_id,
        created=service.created,
        owned_by="trtllm-openai-server",
        max_model_len=info.max_seq_len if info else None,
        trtllm_openai=_engine(service, info) if info else None,
    )
