"""The engine-neutral vocabulary: what is asked of an engine and what it answers.

Structs here cross process borders as msgpack. Token ids only: text never enters an engine.
"""

from trtllm_openai.generation.types import (
    QUEUE_TIMEOUT,
    Capabilities,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerationRequest,
    Guide,
    GuideKind,
    SamplingParams,
    StepOutput,
    TokenLogprobs,
)

__all__ = [
    "QUEUE_TIMEOUT",
    "Capabilities",
    "EngineInfo",
    "EngineStats",
    "FinishReason",
    "GenerationRequest",
    "Guide",
    "GuideKind",
    "SamplingParams",
    "StepOutput",
    "TokenLogprobs",
]
