#!/usr/bin/env bash
# Makes this folder ready to run: environment .venv, packages, speech model. `--help` lists the options.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
for python in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
  if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    exec "$python" "$here/setup.py" "$@"
  fi
done
echo "Python 3.11 or newer is needed. Debian and Ubuntu: apt install python3 python3-venv; or set PYTHON to yours." >&2
exit 1
