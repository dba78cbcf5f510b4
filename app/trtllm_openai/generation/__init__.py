"""Requests to engines, their outputs, and the table of sampling parameters; the same for every engine.

The structs cross process boundaries as msgpack. They hold token ids only: no text enters an engine.
"""

from trtllm_openai.generation.sampling import SamplingParams
from trtllm_openai.generation.types import (
    DEFAULT_PRIORITY,
    GUIDE_COMPILE_BOUNDS,
    QUEUE_FULL,
    QUEUE_TIMEOUT,
    STEP_TOKEN_BOUNDS,
    Capabilities,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerationRequest,
    Guide,
    GuideKind,
    StepOutput,
    Thinking,
    TokenLogprobs,
)

__all__ = [
    "DEFAULT_PRIORITY",
    "GUIDE_COMPILE_BOUNDS",
    "QUEUE_FULL",
    "QUEUE_TIMEOUT",
    "STEP_TOKEN_BOUNDS",
    "Capabilities",
    "EngineInfo",
    "EngineStats",
    "FinishReason",
    "GenerationRequest",
    "Guide",
    "GuideKind",
    "SamplingParams",
    "StepOutput",
    "Thinking",
    "TokenLogprobs",
]
