"""The end of a process: its exit code and all of its output, and nothing after that."""

import subprocess
import sys


def ended(program: str, **streams: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], text=True, timeout=60, **streams)


def test_what_was_said_is_written_and_nothing_runs_after_it():
    program = (
        "import atexit; from agent.process_end import end_process;"
        "atexit.register(print, 'late'); print('said'); end_process(3)"
    )
    found = ended(program, stdout=subprocess.PIPE)
    assert (found.returncode, found.stdout) == (3, "said\n")


def test_nobody_who_reads_is_no_reason_to_stay():
    program = (
        "import os, sys; from agent.process_end import end_process;"
        "r, w = os.pipe(); os.close(r); sys.stdout = open(w, 'w'); print('said'); end_process(3)"
    )
    assert ended(program).returncode == 3
