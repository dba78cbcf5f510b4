"""Load the configured engine. Engine code is imported only here, and only that of the configured engine.

It may have been imported before, by `prestart.import_engine`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec

from trtllm_openai.config import Settings
from trtllm_openai.engines.base import Engine, Progress
from trtllm_openai.engines.kv_events import open_kv_events
from trtllm_openai.text.tokenizer import Tokenizer


class ModelFiles(msgspec.Struct, frozen=True):
    """A model's directories, and facts of its tokenizer for engines whose own files lack them."""

    model_dir: str
    tokenizer_dir: str
    vocab_size: int
    eos_token_ids: tuple[int, ...]


def load_engine(settings: Settings, files: ModelFiles, progress: Progress, runner: int = 0) -> Engine:
    """Load the engine that `settings` name. Raises `CheckpointError` or `ConfigError`.

    `runner`: the index of the runner that this process is.
    """

    @cache
    def tokenizer() -> Tokenizer:
        return Tokenizer.load(Path(files.tokenizer_dir))

    def vocabulary() -> list[bytes]:
        return tokenizer().vocabulary()

    def encode(text: str) -> list[int]:
        return tokenizer().encode(text, add_special_tokens=False)

    match settings.engine:
        case "synthetic":
            from trtllm_openai.engines import synthetic

            return synthetic.load(settings.synthetic, files.vocab_size, files.eos_token_ids, progress, encode)
        case "tensorrt_llm":
            from trtllm_openai.engines.tensorrt_llm import loader as tensorrt_llm

            return tensorrt_llm.load(
                Path(files.model_dir),
                Path(files.tokenizer_dir),
                settings.tensorrt_llm,
                files.eos_token_ids,
                progress,
                vocabulary,
                separate_prefixes=settings.api_keys_file is not None and settings.prefix_sharing == "key",
            )
        case "tensorrt_llm_pytorch":
            from trtllm_openai.engines.tensorrt_llm import pytorch

            return pytorch.load(
                Path(files.model_dir),
                Path(files.tokenizer_dir),
                settings.tensorrt_llm,
                files.eos_token_ids,
                progress,
                vocabulary,
            )
        case "torch":
            from trtllm_openai.engines.torch import loader as torch

            return torch.load(
                Path(files.model_dir),
                settings.torch,
                progress,
                vocabulary,
                open_kv_events(settings.kv_events, settings.torch.block_size, runner),
            )
