"""The real Open MPI, where it is installed, and another machine for it."""

import os
import shutil
import subprocess
from pathlib import Path

AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def open_mpi_missing() -> str:
    """Why tests with it cannot run here; empty if they can."""
    lacks = [name for name in ("mpicc", "mpirun") if shutil.which(name) is None]
    if lacks:
        return f"no {' and no '.join(lacks)}: apt-get install openmpi-bin libopenmpi-dev"
    version = subprocess.run(["mpirun", "--version"], capture_output=True, text=True, check=False).stdout
    return "" if "(Open MPI) 4." in version else f"not Open MPI 4: {version.splitlines()[:1]}"


def other_machine(directory: Path, hides: Path | None = None, **environment: str) -> list[str]:
    """mpirun for one rank on this machine and one on another.

    The other is this one, reached by an agent that hands on a command alone: its environment is
    `environment`, its temporary directory `directory`. It does not see what is in `hides`, a directory of
    this machine, if this user may mount something over it.
    """
    agent = directory / "agent"
    lines = [f"export {name}='{value}'" for name, value in {**environment, "TMPDIR": str(directory)}.items()]
    run = 'exec sh -c "$*"'
    if hides is not None and subprocess.run(["unshare", "-m", "true"], check=False).returncode == 0:
        run = f'exec unshare -m sh -c "mount -t tmpfs none {hides} && $*"'
    clean = "\n".join([f'[ -n "$FAR" ] || exec env -i FAR=1 PATH="$PATH" HOME=/ {agent} "$@"', *lines])
    agent.write_text(f"#!/bin/sh\n{clean}\nshift\n{run}\n")
    agent.chmod(0o755)
    here = os.uname().nodename
    return ["mpirun", "--bind-to", "none", "--mca", "plm_rsh_agent", str(agent), "--host", f"{here}:1,far:1"]
