"""From the settings to a served model: locate its files, read its tokenizer, create the runner pool."""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from trtllm_openai import checkpoints
from trtllm_openai.config import Settings
from trtllm_openai.engine_host.gpus import assign_gpus, gpus_per_replica
from trtllm_openai.engine_host.loader import ModelFiles
from trtllm_openai.engine_host.messages import LaunchSpec
from trtllm_openai.engine_host.prestart import PrestartedHosts
from trtllm_openai.engines.tensorrt_llm.engine_dir import read_engine_dir
from trtllm_openai.engines.tensorrt_llm.speculative import check_speculation
from trtllm_openai.errors import CheckpointError, ConfigError
from trtllm_openai.runners import SequencePool
from trtllm_openai.serve.pools import OwnedPool, make_pool, ray_launcher
from trtllm_openai.serve.sampling_defaults import described, sampling_defaults
from trtllm_openai.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

Pool = TypeVar("Pool", bound=SequencePool, covariant=True)


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Directories and wire name of a model, and what one runner of it needs.

    `gpus_per_replica` is 0 for an engine that runs on the CPU. `command` is prepended to the runner's command
    line, such as mpirun with its options. `has_ranks`: its engine consists of MPI processes.
    """

    model_dir: Path
    tokenizer_dir: Path
    name: str
    gpus_per_replica: int
    command: tuple[str, ...] = ()
    has_ranks: bool = False

    @property
    def directories(self) -> tuple[Path, Path]:
        """Where its small files are, the first with precedence."""
        return self.model_dir, self.tokenizer_dir

    def files(self, tokenizer: Tokenizer) -> ModelFiles:
        """The model as a runner needs it; `tokenizer` was read from `tokenizer_dir`."""
        return ModelFiles(
            str(self.model_dir), str(self.tokenizer_dir), tokenizer.vocab_size, tokenizer.eos_token_ids
        )


def resolve_model(settings: Settings, converting: Callable[[float, str], None]) -> ModelLocation:
    """Find the model, converting it if needed; `converting` gets the share done.

    Raises `CheckpointError` or `ConfigError`.
    """
    if settings.engine == "tensorrt_llm_pytorch" and settings.tensorrt_llm.lora_adapters:
        raise ConfigError("tensorrt_llm.lora_adapters: only the engine tensorrt_llm serves adapters")
    tokenizer = Path(settings.tokenizer).expanduser() if settings.tokenizer else None
    if settings.engine != "tensorrt_llm":
        dummy = settings.engine == "torch" and settings.torch.load_format == "dummy"
        model_dir = checkpoints.resolve(settings.model, settings.cache_path, converting, weights=not dummy)
        name = checkpoints.display_name(settings.model, model_dir)
        return ModelLocation(
            model_dir,
            tokenizer or model_dir,
            name,
            gpus_per_replica(settings),
            has_ranks=settings.engine == "tensorrt_llm_pytorch",
        )
    from trtllm_openai.engines.tensorrt_llm.lora_files import open_adapters  # with numpy, which only it needs

    engine_dir, beside = checkpoints.find_engine(settings.model)
    if tokenizer is None and not beside.is_dir():
        raise CheckpointError(
            f"The engine in {engine_dir} has no tokenizer: put the model's into {beside}, or set tokenizer."
        )
    engine = read_engine_dir(engine_dir)  # report an error once, not from every runner
    check_speculation(engine, settings.tensorrt_llm)
    open_adapters(engine, settings.adapters)
    name = engine_dir.parent.name if engine_dir.name == "engine" else engine_dir.name
    for taken in settings.served_model_name or [name]:
        if taken in settings.adapters:
            raise ConfigError(f"tensorrt_llm.lora_adapters: {taken} is the model's own id")
    command: tuple[str, ...] = ()
    if settings.tensorrt_llm.launch == "leader" and engine.world_size > 1:
        command = tuple(shlex.split(settings.tensorrt_llm.mpi_command.format(world=engine.world_size)))
    return ModelLocation(
        engine_dir,
        tokenizer or beside,
        name,
        settings.gpus_per_replica or engine.world_size,
        command,
        has_ranks=engine.world_size > 1,
    )


@dataclass(frozen=True, slots=True)
class ServedModel(Generic[Pool]):
    """A model with its pool.

    `name`: its default name on the wire, from the checkpoint. `sampling_defaults`: see that module.
    """

    name: str
    tokenizer: Tokenizer
    tokenizer_dir: Path
    sampling_defaults: dict[str, float]
    pool: Pool


async def open_served_model(
    settings: Settings,
    converting: Callable[[float, str], None],
    on_change: Callable[[], None],
    hosts: PrestartedHosts | None = None,
) -> ServedModel[OwnedPool]:
    """Find the model, converting it if needed, and create its pool; the caller starts the pool.

    `converting` is called with the share that is done and the current part, from a thread. `on_change` is
    called after a runner changed its state. `hosts`: for the first launches of runners on this machine.
    Raises `CheckpointError` or `ConfigError`.
    """
    location = await asyncio.to_thread(resolve_model, settings, converting)
    launcher = ray_launcher(settings, location.gpus_per_replica)
    gpus = assign_gpus(settings, 0 if launcher else location.gpus_per_replica)  # Ray assigns its own
    tokenizer = await asyncio.to_thread(Tokenizer.load, location.tokenizer_dir, settings.chat_template)
    defaults = sampling_defaults(settings, location.directories)
    log.info("sampling defaults: %s", described(defaults))
    specs = [
        LaunchSpec(
            address="",
            index=index,
            settings=settings.model_dump(mode="json"),
            files=location.files(tokenizer),
            gpus=visible,
            command=location.command,
            has_ranks=location.has_ranks,
        )
        for index, visible in enumerate(gpus)
    ]
    pool = make_pool(settings, specs, launcher, on_change, hosts)
    return ServedModel(location.name, tokenizer, location.tokenizer_dir, defaults, pool)
