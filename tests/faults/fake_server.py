"""`trio-stt serve` with an engine that needs no model: run as ``python -m tests.faults.fake_server``."""

import trio_stt.app
from tests.unit.fakes import FakeEngine
from trio_stt.serve import serve_command

if __name__ == "__main__":
    trio_stt.app.load_vosk = lambda settings: FakeEngine()
    serve_command()
