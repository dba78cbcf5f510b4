"""The configured engine, loaded. Only here, and only the configured one, is engine code imported."""

from __future__ import annotations

from pathlib import Path

from app.config import Settings
from app.engines.base import Engine, Progress


def load_engine(
    settings: Settings,
    model_dir: Path,
    vocab_size: int,
    eos_token_ids: tuple[int, ...],
    progress: Progress,
) -> Engine:
    """Load it. `vocab_size` and `eos_token_ids` are the tokenizer's, for engines whose files lack them.

    Raises `CheckpointError` or `ConfigError`.
    """
    match settings.engine:
        case "synthetic":
            from app.engines import synthetic

            return synthetic.load(settings.synthetic, vocab_size, eos_token_ids, progress)
        case "tensorrt_llm":
            from app.engines import tensorrt_llm

            return tensorrt_llm.load(model_dir, settings.tensorrt_llm, eos_token_ids, progress)
        case "torch":
            from app.engines import torch

            return torch.load(model_dir, settings.torch, progress)
