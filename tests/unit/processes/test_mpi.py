"""The MPI rank, as each launcher says it, and what Open MPI is told."""

import os

import pytest

from trtllm_openai.processes.mpi import RANK_VARIABLES, SPAWN_ENVIRONMENT, mpi_rank, prepare_to_spawn


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


def test_what_an_operator_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SPAWN_ENVIRONMENT:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    first, *others = SPAWN_ENVIRONMENT
    monkeypatch.setenv(first, "0")
    prepare_to_spawn()
    assert os.environ[first] == "0"
    assert {name: os.environ[name] for name in others} == {name: SPAWN_ENVIRONMENT[name] for name in others}
