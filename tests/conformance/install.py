"""Installs the clients of the conformance tests under `.conformance/`, apart from the server's own packages.

`python -m tests.conformance.install [NAME…]`: by default every client but Open WebUI, which takes 7 GB. Safe
to call again. A client of Python has a virtual environment of its own, since their requirements exclude each
other; those of JavaScript share `node/node_modules`, with a Node.js that is new enough for all of them.

A client that cannot be installed does not end the others: the reason is kept, and its test skipped with it.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PLACE = ROOT / ".conformance"
REQUIREMENTS = HERE / "requirements"
NODE = HERE / "node"
NODE_BIN = NODE / "node_modules" / ".bin"
LARGE = ("open_webui",)
"""Clients that are installed only where they are named."""


def names() -> list[str]:
    """Clients of Python, each with a file of pinned requirements, and `node` for all of JavaScript."""
    return [*sorted(path.stem for path in REQUIREMENTS.glob("*.txt") if path.stem != "uv"), "node"]


def python(name: str) -> Path:
    """The interpreter that has this client."""
    return PLACE / name / "bin" / "python"


def node() -> Path:
    """The Node.js that came with the clients of JavaScript."""
    return next(NODE.glob("node_modules/node-linux-*/bin/node"))


def missing(name: str) -> str:
    """Why this client cannot be run; empty if it is installed as the files say."""
    stamp = _stamp(name)
    if not stamp.exists():
        return f"not installed: python -m tests.conformance.install {name}"
    kept = stamp.read_text()
    return f"cannot be installed: {kept}" if kept else ""


def version(name: str, package: str) -> str:
    """The installed version of a package."""
    if name == "node":
        installed = json.loads((NODE / "node_modules" / package / "package.json").read_text())
        return str(installed["version"])
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([python(name), "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def install(name: str) -> str:
    """Install a client. Returns the end of what was said if that failed."""
    stamp = _stamp(name)
    if stamp.exists() and not stamp.read_text():
        return ""
    for old in PLACE.glob(f"{name}.*.done"):
        old.unlink()
    print(f"conformance: installing {name}", file=sys.stderr, flush=True)
    failed = ""
    for command in _commands(name):
        try:
            subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=True)
        except subprocess.CalledProcessError as error:
            failed = error.stderr.strip()[-400:] or str(error)
        except (OSError, subprocess.TimeoutExpired) as error:  # there is no npm, say
            failed = str(error)
        if failed:
            break
    stamp.write_text(failed)
    return failed


def _commands(name: str) -> list[list[str]]:
    if name == "node":
        npm = [
            "npm",
            "--prefix",
            str(NODE),
            "install",
            "--no-audit",
            "--no-fund",
            "--no-package-lock",
            "--silent",
        ]
        return [npm]
    uv = str(PLACE / "uv" / "bin" / "uv")
    requirements = str(REQUIREMENTS / f"{name}.txt")
    return [
        [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(PLACE / name)],
        [uv, "pip", "install", "--quiet", "--python", str(python(name)), "--requirement", requirements],
    ]


def _uv() -> None:
    """The installer itself, which takes seconds where pip takes minutes to find versions that fit."""
    PLACE.mkdir(exist_ok=True)
    if not (PLACE / "uv" / "bin" / "uv").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PLACE / "uv")], check=True)
        pip = [str(python("uv")), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--requirement", str(REQUIREMENTS / "uv.txt")], check=True)


def _stamp(name: str) -> Path:
    """Exists if this was tried with the files as they are; holds what went wrong."""
    wanted = NODE / "package.json" if name == "node" else REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(wanted.read_bytes()).hexdigest()[:12]
    return PLACE / f"{name}.{digest}.done"


def main(wanted: list[str]) -> int:
    _uv()
    for name in wanted or [name for name in names() if name not in LARGE]:
        if failed := install(name):
            print(f"conformance: {name} cannot be installed:\n{failed}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
