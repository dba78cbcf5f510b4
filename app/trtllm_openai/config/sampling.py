"""Defaults of sampling parameters, a section of the settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trtllm_openai.config.fields import Section


class DefaultSampling(Section):
    """Sampling parameters of requests that do not say. null: what the model's generation_config.json says,
    else what docs/api.md says."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, description="default of temperature; 0 is greedy"
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="default of top_p")
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = Field(
        None, description="default of top_k; 0 and -1 keep all tokens"
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="default of min_p")
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = Field(
        None, description="default of repetition_penalty"
    )
