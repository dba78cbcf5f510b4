"""From the settings to a model about to start: its files found, its tokenizer read, its pool made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from trtllm_openai.config import Settings
from trtllm_openai.engine_host.messages import LaunchSpec
from trtllm_openai.runners import RunnerPool, SequencePool
from trtllm_openai.runners.gpus import assign_gpus
from trtllm_openai.serve.location import resolve_model
from trtllm_openai.text.tokenizer import Tokenizer

Pool = TypeVar("Pool", bound=SequencePool, covariant=True)


@dataclass(frozen=True, slots=True)
class ServedModel(Generic[Pool]):
    """A model to be served. `name`: what clients call it, if the settings do not say."""

    name: str
    tokenizer: Tokenizer
    tokenizer_dir: Path
    pool: Pool


async def open_served_model(
    settings: Settings, converting: Callable[[float, str], None], on_change: Callable[[], None]
) -> ServedModel[RunnerPool]:
    """Find the model, converting it when needed, and prepare the pool, whose `start` is the caller's.

    `converting` is called with the share that is done and the present part, from a thread. Raises
    `CheckpointError` or `ConfigError`.
    """
    place = await asyncio.to_thread(resolve_model, settings, converting)
    gpus = assign_gpus(settings, place.gpus_per_replica)
    tokenizer = await asyncio.to_thread(Tokenizer.load, place.tokenizer_dir, settings.chat_template)
    specs = [
        LaunchSpec(
            address="",
            index=index,
            settings=settings.model_dump(mode="json"),
            files=place.files(tokenizer),
            gpus=visible,
            command=place.command,
        )
        for index, visible in enumerate(gpus)
    ]
    pool = RunnerPool(
        specs,
        load_timeout=settings.load_timeout,
        stall_timeout=settings.stall_timeout,
        on_change=on_change,
    )
    return ServedModel(place.name, tokenizer, place.tokenizer_dir, pool)
