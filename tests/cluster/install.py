"""Installs Ray for the tests of this folder under `.cluster/`, beside the server's own packages: 400 MB.

`python -m tests.cluster.install`. Safe to call again. The environment sees the packages of the one that this
is called with, and adds what Ray needs beside them.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).parent
PLACE = HERE.parents[1] / ".cluster"
REQUIREMENTS = HERE / "requirements.txt"


def main() -> int:
    stamp = PLACE / f"{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]}.done"
    if stamp.exists():
        return 0
    print("cluster: installing ray", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(PLACE)], check=True)
    python = str(PLACE / "bin" / "python")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    (Path(own) / "server.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--requirement", str(REQUIREMENTS)], check=True)
    stamp.touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
