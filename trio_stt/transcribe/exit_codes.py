"""The exit codes of `trio-stt transcribe`."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a script may tell from the exit code; docs/transcribe.md says it to users."""

    OK = 0
    OUTPUT = 1
    """Standard output could not be written, for another reason than a reader that went away."""
    USAGE = 2
    """Wrong options; click's own code."""
    SOURCE = 3
    """A file, standard input or the microphone could not be read; other files were transcribed all the same."""
    SERVER = 4
    """No server answered, it refused, or none could be started."""
    CONNECTION = 5
    """The connection was lost for good before the last caption had come."""
    INTERRUPTED = 130
    """Ctrl-C (128 + SIGINT, as shells count); what was recognised so far has been written."""
    OUTPUT_CLOSED = 141
    """The reader of standard output went away (128 + SIGPIPE), as with `| head`."""
