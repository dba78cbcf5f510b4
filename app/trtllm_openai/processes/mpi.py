"""What MPI launchers and Open MPI read and write in the environment: MPI itself is not imported."""

from __future__ import annotations

import os

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
"""Environment variables in which MPI launchers pass the rank."""

SPAWN_ENVIRONMENT = {
    # Without it N ranks need N + 1 slots, and a machine, or a container, has as many as it has cores.
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    # Spawned ranks are bound to a core each, or a NUMA node, and heed no binding policy unless they inherit.
    "OMPI_MCA_rmaps_base_inherit": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
}
"""Settings of Open MPI 4's daemon, which `MPI_Init` starts, for a process that calls MPI_Comm_spawn."""


def mpi_rank() -> int | None:
    """This process's rank under an MPI launcher, None without a launcher."""
    found = (os.environ.get(variable) for variable in RANK_VARIABLES)
    return next((int(rank) for rank in found if rank is not None), None)


def prepare_to_spawn() -> None:
    """Set `SPAWN_ENVIRONMENT`, except for what is set already. Has no effect after `MPI_Init`."""
    for name, value in SPAWN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
