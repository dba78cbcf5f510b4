"""The embedded PyTorch engine: continuous batching for the Llama family on CPU and CUDA."""

import os

# OpenMP threads spin about 10 µs before they sleep. The default is milliseconds, which is free on an idle
# machine; beside another busy process it makes each of a step's hundreds of parallel regions wait for the OS
# scheduler, and prefill takes 15 times as long. Set at import rather than in `load`: libgomp reads the
# variable once, when the import of torch loads the library, and every module of this package imports torch.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.base import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtllm_openai.engines.kv_events import KVEvents
    from trtllm_openai.engines.torch.engine import TorchEngine

__all__ = ["load"]


def load(
    model_dir: Path,
    settings: TorchSettings,
    progress: Progress,
    vocabulary: "Callable[[], list[bytes]] | None" = None,
    kv_events: "KVEvents | None" = None,
) -> "TorchEngine":
    """`loader.load`. Importing this package does not import torch, which `guide_trial` does without."""
    from trtllm_openai.engines.torch import loader

    return loader.load(model_dir, settings, progress, vocabulary, kv_events)
