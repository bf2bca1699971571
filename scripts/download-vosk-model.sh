#!/usr/bin/env bash
# Installs speech models: scripts/download-vosk-model.sh [LANG [--from FILE|URL] [--compile auto|yes|no]]; English unless told.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ ! -x .venv/bin/python ]; then
  echo "The environment is missing: run scripts/setup.sh first." >&2
  exit 1
fi
exec .venv/bin/python -m trio_stt models install "${@:-en}"
