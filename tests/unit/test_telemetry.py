"""A library that tells its maker about us does not."""

import os
import subprocess
import sys
from pathlib import Path


def _what_is_left_in_the_home_of(program: str, home: Path) -> set[str]:
    # CI: telemetry is off there by itself.
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment.update(HOME=str(home), XDG_CACHE_HOME=str(home / "cache"), PYTHONDONTWRITEBYTECODE="1")
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    return {path.name for path in home.rglob("*") if path.is_file()}


def test_onnx_runtime_keeps_no_number_of_this_device(tmp_path):
    assert _what_is_left_in_the_home_of("import trio_stt.audio.vad", tmp_path) == set()
