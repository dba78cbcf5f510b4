#!/usr/bin/env bash
# Install the clients of the conformance tests, apart from the server's own packages. Safe to call again.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=.venv-conformance
stamp=$venv/.ready-$(cat tests/conformance/setup.sh tests/conformance/node/package.json | cksum | cut -d' ' -f1)
[ -f "$stamp" ] && exit 0
command -v node >/dev/null || { echo "conformance: there is no node; install Node.js 20 or newer" >&2; exit 1; }
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip --disable-pip-version-check install -q \
  "langchain-tests>=1.1,<2" "langchain-openai>=1.0,<2" "llm-comply==0.5.0"
npm --prefix tests/conformance/node install --silent --no-audit --no-fund --no-package-lock
rm -f "$venv"/.ready-*
touch "$stamp"
