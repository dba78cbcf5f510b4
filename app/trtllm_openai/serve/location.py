"""From the settings to what is needed to start runners: directories, names, GPUs and commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trtllm_openai import checkpoints
from trtllm_openai.config import Settings
from trtllm_openai.engine_host.loader import ModelFiles
from trtllm_openai.engines.tensorrt_llm.engine_dir import read_engine_dir
from trtllm_openai.errors import CheckpointError
from trtllm_openai.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Where the model is, what clients call it, and what one runner of it takes: 0 GPUs, if it needs none."""

    model_dir: Path
    tokenizer_dir: Path
    name: str
    gpus_per_replica: int
    command: tuple[str, ...] = ()

    def files(self, tokenizer: Tokenizer) -> ModelFiles:
        """What a runner is told, with the tokenizer that was read from `tokenizer_dir`."""
        return ModelFiles(
            str(self.model_dir), str(self.tokenizer_dir), tokenizer.vocab_size, tokenizer.eos_token_ids
        )


def resolve_model(settings: Settings, converting: Callable[[float, str], None]) -> ModelLocation:
    """Find the model, converting it when needed. Raises `CheckpointError`."""
    tokenizer = Path(settings.tokenizer).expanduser() if settings.tokenizer else None
    if settings.engine != "tensorrt_llm":
        dummy = settings.engine == "torch" and settings.torch.load_format == "dummy"
        model_dir = checkpoints.resolve(settings.model, settings.cache_path, converting, weights=not dummy)
        name = checkpoints.display_name(settings.model, model_dir)
        each = 0  # what computes on no GPU takes none from the others, however few there are
        if settings.engine == "torch" and settings.torch.device != "cpu":
            each = settings.torch.tensor_parallel_size
        elif settings.engine == "tensorrt_llm_pytorch":
            each = settings.tensorrt_llm.tensor_parallel_size
        return ModelLocation(model_dir, tokenizer or model_dir, name, settings.gpus_per_replica or each)
    engine_dir, beside = checkpoints.find_engine(settings.model)
    if tokenizer is None and not beside.is_dir():
        raise CheckpointError(
            f"The engine in {engine_dir} has no tokenizer: put the model's into {beside}, or set tokenizer."
        )
    engine = read_engine_dir(engine_dir)  # a fault is better found here than in several processes
    command: tuple[str, ...] = ()
    if settings.tensorrt_llm.launch == "leader" and engine.world_size > 1:
        command = tuple(shlex.split(settings.tensorrt_llm.mpi_command.format(world=engine.world_size)))
    return ModelLocation(
        engine_dir,
        tokenizer or beside,
        engine_dir.parent.name if engine_dir.name == "engine" else engine_dir.name,
        settings.gpus_per_replica or engine.world_size,
        command,
    )
