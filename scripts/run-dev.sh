#!/usr/bin/env bash
# Sets up what is missing, then runs the server for development: on loopback, with readable debug logs, started anew
# whenever a file of trio_stt/ changes. Ctrl-C ends it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh --quiet
export SERVER_HOST=127.0.0.1 AUTH_MODE="${AUTH_MODE:-off}" LOG_LEVEL="${LOG_LEVEL:-DEBUG}" LOG_FORMAT="${LOG_FORMAT:-console}"
export MAX_CONNECTIONS_PER_ADDRESS="${MAX_CONNECTIONS_PER_ADDRESS:-0}" # all clients have the same
export DRAIN_TIMEOUT_S="${DRAIN_TIMEOUT_S:-1}" # a reload does not wait for open streams
exec .venv/bin/python -m watchfiles --filter python ".venv/bin/python -m trio_stt serve" trio_stt
