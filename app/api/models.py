"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from fastapi import APIRouter, Request

from app.api.params import check_model
from app.protocol.common import ModelCard, ModelList
from app.service import InferenceService

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


def _card(service: InferenceService) -> ModelCard:
    info = service.engine_info
    return ModelCard(
        id=service.model_id,
        created=service.created,
        owned_by="trtllm-openai-server",
        max_model_len=info.max_seq_len if info else None,
    )
