"""Assignment of disjoint sets of GPUs to replicas, made before a runner process initializes CUDA."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from trtllm_openai.config import Settings
from trtllm_openai.errors import ConfigError

log = logging.getLogger(__name__)

DRIVER = Path("/proc/driver/nvidia/gpus")
DEVICES = Path("/dev")
"""Has a file nvidia0, nvidia1 … for each GPU, also in sandboxes without the driver's files in /proc."""


def gpus_per_replica(settings: Settings) -> int:
    """The GPUs of one runner; 0 for an engine that runs on the CPU, and takes none from other processes.

    For the engine `tensorrt_llm` it is what the setting says: the rest is in the engine's files.
    """
    each = 0
    if settings.engine == "torch" and settings.torch.device != "cpu":
        each = settings.torch.tensor_parallel_size
    elif settings.engine == "tensorrt_llm_pytorch":
        each = settings.tensorrt_llm.tensor_parallel_size
    return settings.gpus_per_replica or each


def assign_gpus(settings: Settings, per_replica: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES for each replica that there may be; None leaves it unchanged.

    Nothing is assigned if the engine needs no GPU, or if no GPU is found and the settings name none. Of a
    range, as many as there are GPUs for. Raises `ConfigError` if there are too few for its least number.
    """
    least, most = settings.replica_range.min, settings.replica_range.max
    if not per_replica:
        return [None] * most
    gpus = settings.gpus if settings.gpus is not None else _visible()
    if not gpus and settings.gpus is None and settings.gpus_per_replica is None:
        return [None] * most
    if len(set(gpus)) != len(gpus):
        raise ConfigError(f"gpus: {', '.join(gpus)} contains a GPU twice")
    if least * per_replica > len(gpus):
        raise ConfigError(
            f"replicas: {least} replicas with {per_replica} GPU(s) each need {least * per_replica}, "
            f"but there are {len(gpus)}"
        )
    fit = min(most, len(gpus) // per_replica)
    if fit < most:
        log.warning("replicas.max: %d replicas at most, as there are %d GPUs", fit, len(gpus))
    return [",".join(gpus[replica * per_replica : (replica + 1) * per_replica]) for replica in range(fit)]


def _visible() -> list[str]:
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [gpu.strip() for gpu in listed.split(",") if gpu.strip()]
    number = len(list(DRIVER.iterdir())) if DRIVER.is_dir() else 0
    number = number or sum(path.name[6:].isdigit() for path in DEVICES.glob("nvidia*"))
    return [str(index) for index in range(number)]
