"""How a process that used LiveKit's SDK ends."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def end_process(code: int) -> NoReturn:
    """Ends this process at once with exit code `code`, after its output is written out.

    Python is not taken down step by step: threads of the SDK that call it in that time are unwound through Rust, which
    aborts the process, now and then, after all its work was done. What else must be closed has to be closed before.
    """
    for stream in (sys.stdout, sys.stderr):
        # It may be a pipe whose reader is gone.
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(code)
