#!/usr/bin/env bash
# Several instances behind nginx: start N | scale N | restart | status | logs [PROCESS] | stop. `start` sets up what is
# missing. Settings come from the environment and .env.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in
  start) scripts/setup.sh --fleet --quiet ;;
  scale | restart | status | logs | stop) ;;
  *)
    echo "Usage: scripts/scale-deploy.sh start N | scale N | restart | status | logs [PROCESS] | stop" >&2
    exit 2
    ;;
esac
if [ ! -x .venv/bin/python ]; then
  echo "There is no fleet here: scripts/scale-deploy.sh start N makes one." >&2
  exit 1
fi
exec .venv/bin/python -m trio_stt fleet "$@"
