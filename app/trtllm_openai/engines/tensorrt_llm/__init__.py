"""TensorRT-LLM engines: NVIDIA's executor behind the Engine interface."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_openai.config import TensorRTLLMSettings
from trtllm_openai.engines.base import Progress

if TYPE_CHECKING:
    from trtllm_openai.engines.tensorrt_llm.executor import ExecutorEngine

__all__ = ["load"]


def load(
    engine_dir: Path,
    tokenizer_dir: Path,
    settings: TensorRTLLMSettings,
    eos_token_ids: tuple[int, ...],
    progress: Progress,
    vocabulary: Callable[[], list[bytes]],
    *,
    separate_prefixes: bool = False,
) -> "ExecutorEngine":
    """`loader.load`. Importing this package imports nothing of it: HTTP processes read engine directories."""
    from trtllm_openai.engines.tensorrt_llm import loader

    return loader.load(
        engine_dir,
        tokenizer_dir,
        settings,
        eos_token_ids,
        progress,
        vocabulary,
        separate_prefixes=separate_prefixes,
    )
