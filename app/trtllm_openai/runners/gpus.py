"""Assignment of disjoint sets of GPUs to replicas, made before a runner process initializes CUDA."""

from __future__ import annotations

import os
from pathlib import Path

from trtllm_openai.config import Settings
from trtllm_openai.errors import ConfigError

DRIVER = Path("/proc/driver/nvidia/gpus")


def assign_gpus(settings: Settings, per_replica: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES for each replica; None leaves it unchanged.

    Nothing is assigned if the engine needs no GPU, or if no GPU is found and the settings name none. Raises
    `ConfigError` if there are too few GPUs.
    """
    if not per_replica:
        return [None] * settings.replicas
    gpus = settings.gpus if settings.gpus is not None else _visible()
    if not gpus and settings.gpus is None and settings.gpus_per_replica is None:
        return [None] * settings.replicas
    needed = settings.replicas * per_replica
    if len(set(gpus)) != len(gpus):
        raise ConfigError(f"gpus: {', '.join(gpus)} contains a GPU twice")
    if needed > len(gpus):
        raise ConfigError(
            f"replicas: {settings.replicas} replicas with {per_replica} GPU(s) each need {needed}, "
            f"but there are {len(gpus)}"
        )
    return [
        ",".join(gpus[replica * per_replica : (replica + 1) * per_replica])
        for replica in range(settings.replicas)
    ]


def _visible() -> list[str]:
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [gpu.strip() for gpu in listed.split(",") if gpu.strip()]
    if not DRIVER.is_dir():
        return []
    return [str(index) for index, _ in enumerate(DRIVER.iterdir())]
