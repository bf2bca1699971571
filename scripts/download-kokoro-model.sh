#!/usr/bin/env bash
# Installs Kokoro, the model that speaks: scripts/download-kokoro-model.sh [-v "af_heart,am_adam"] [--from FOLDER]
# --list shows its voices.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ ! -x .venv/bin/python ]; then
  echo "The environment is missing: run scripts/setup.sh first." >&2
  exit 1
fi
if [ "${1:-}" = --list ]; then
  exec .venv/bin/python -m trio_stt models voices
fi
exec .venv/bin/python -m trio_stt models install kokoro "$@"
