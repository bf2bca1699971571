#!/usr/bin/env bash
# Runs the server as it is meant to run for others: JSON logs, no reload, nothing installed on the way.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh --check
export AUTH_MODE=required LOG_FORMAT="${LOG_FORMAT:-json}"
exec .venv/bin/python -m trio_stt serve
