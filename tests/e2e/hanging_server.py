"""`trio-stt serve` with an engine that hangs once it hears `HANG`: run as ``python -m tests.e2e.hanging_server``."""

import trio_stt.app
from tests.unit.fakes import HangingEngine
from trio_stt.serve import serve_command

if __name__ == "__main__":
    trio_stt.app.load_vosk = lambda settings: HangingEngine()
    serve_command()
