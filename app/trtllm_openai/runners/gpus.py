"""Which replica gets which GPUs: disjoint sets, said to each process before it can touch CUDA."""

from __future__ import annotations

import os
from pathlib import Path

from trtllm_openai.config import Settings
from trtllm_openai.errors import ConfigError

DRIVER = Path("/proc/driver/nvidia/gpus")


def assign_gpus(settings: Settings, per_replica: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES for each replica, None to leave it as it is.

    Where none are needed, or none are known of and none were asked for, nothing is assigned. Raises
    `ConfigError` if the GPUs do not suffice.
    """
    if not per_replica:
        return [None] * settings.replicas
    gpus = settings.gpus if settings.gpus is not None else _visible()
    if not gpus and settings.gpus is None and settings.gpus_per_replica is None:
        return [None] * settings.replicas
    needed = settings.replicas * per_replica
    if len(set(gpus)) != len(gpus):
        raise ConfigError(f"gpus: {', '.join(gpus)} names a GPU twice")
    if needed > len(gpus):
        raise ConfigError(
            f"replicas: {settings.replicas} of {per_replica} GPU(s) each need {needed}, "
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
