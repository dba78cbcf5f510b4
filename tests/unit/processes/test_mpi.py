"""The MPI rank, as each launcher says it."""

import pytest

from trtllm_openai.processes.mpi import RANK_VARIABLES, mpi_rank


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in RANK_VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def test_without_a_launcher_there_is_no_rank() -> None:
    assert mpi_rank() is None


@pytest.mark.parametrize("variable", RANK_VARIABLES)
def test_each_launchers_variable(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "3")
    assert mpi_rank() == 3


def test_rank_0_is_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under mpirun inside a Slurm job, the inner launcher counts."""
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("SLURM_PROCID", "5")
    assert mpi_rank() == 0
