#!/usr/bin/env bash
# Sets up what the tests need, checks format, style, types and import layers, then runs the tests. With arguments:
# only pytest, with these arguments.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh --test --quiet
exec .venv/bin/python scripts/test.py "$@"
