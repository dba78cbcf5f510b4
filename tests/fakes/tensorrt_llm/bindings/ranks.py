"""The ranks of orchestrator mode: spawned through a daemon, as Open MPI 4's MPI_Comm_spawn does.

What was seen of the real one (tests/unit/processes/test_open_mpi.py) holds here: the daemon has a session of
its own, is told its policies when MPI starts, which is when tensorrt_llm is imported, and goes on when a rank
dies, as does the process that spawned it.
"""

import os
import select
import subprocess
import sys
from pathlib import Path

DAEMON = Path(__file__).parents[1] / "bin" / "orted"
SLOTS = 2
"""Of this machine; the process that spawns takes one."""
AT_START = dict(os.environ)


class Spawned:
    """`world` ranks that have loaded. Waits for ever if one dies before that."""

    def __init__(self, worker: str, world: int, load_s: float) -> None:
        if world >= SLOTS and AT_START.get("OMPI_MCA_rmaps_base_oversubscribe") != "1":
            print("There are not enough slots available in the system", file=sys.stderr, flush=True)
            raise SystemExit(50)  # MPI_ERRORS_ARE_FATAL
        self._daemon = subprocess.Popen(
            [sys.executable, "-S", "-E", str(DAEMON), worker, str(world), str(load_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=AT_START,
        )
        assert self._daemon.stdout is not None
        if self._daemon.stdout.readline() != b"loaded\n":
            raise RuntimeError("the fake orted ended")

    def lost(self) -> bool:
        """Whether a rank has died since."""
        assert self._daemon.stdout is not None
        return bool(select.select([self._daemon.stdout], [], [], 0)[0])

    def end(self) -> None:
        if self._daemon.poll() is None:
            self._daemon.communicate()
