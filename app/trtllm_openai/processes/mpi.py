"""MPI rank of this process, from the environment: MPI itself is not imported."""

from __future__ import annotations

import os

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
"""Environment variables in which MPI launchers pass the rank."""


def mpi_rank() -> int | None:
    """This process's rank under an MPI launcher, None without a launcher."""
    found = (os.environ.get(variable) for variable in RANK_VARIABLES)
    return next((int(rank) for rank in found if rank is not None), None)
