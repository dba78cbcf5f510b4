"""What a process knows about MPI without importing it."""

from __future__ import annotations

import os

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
"""Where MPI launchers say which rank a process is."""


def mpi_rank() -> int | None:
    """This process's rank under an MPI launcher, None without one."""
    found = (os.environ.get(variable) for variable in RANK_VARIABLES)
    return next((int(rank) for rank in found if rank is not None), None)
