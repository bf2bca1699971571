"""`trio-stt drill`, short: a fleet is hurt while people talk, and they lose nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.local_fleet import ROOT


def drill(model: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trio_stt", "drill", *arguments],
        cwd=ROOT,
        env={**os.environ, "VOSK_MODEL_PATH": str(model)},
        capture_output=True,
        text=True,
        timeout=220,
    )


def test_people_who_talk_lose_nothing(model, tmp_path):
    file = tmp_path / "figures.json"
    done = drill(model, "kill", "network", "--speakers", "6", "--seconds", "20", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    found = {each["name"]: each["value"] for each in json.loads(file.read_text())["figures"]}
    for trouble in ("kill", "network"):
        for name in ("samples of them not in exactly one final", "finals out of order or overlapping"):
            assert found[f"{trouble}: {name}"] == 0, done.stdout
        assert found[f"{trouble}: errors that users see"] == 0, done.stdout
        assert found[f"{trouble}: connections lost or moved"] > 0, done.stdout
    assert found["undisturbed: connections lost or moved"] == 0, done.stdout


def test_what_is_not_there_is_said(tmp_path):
    done = drill(tmp_path / "nothing", "kill", "--speakers", "1", "--seconds", "10")
    assert done.returncode == 1
    assert str(tmp_path / "nothing") in done.stderr
    assert "Traceback" not in done.stderr
