"""What speaking costs on this machine: ``python -m agent.tts.measure``, with the model and settings of the agent.

For pieces of several lengths, in English and Portuguese: how long the first sound is waited for, which is as long as
the whole piece takes, and the processor's time for a second of speech. Linux tells times and memory of a process.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Final

from attrs import frozen
from rich.console import Console
from rich.table import Table

from agent.tts.frames import SAMPLE_RATE
from agent.tts.speech import command, why_not
from agent.tts.synthesis import Synthesis
from agent.tts.voices import Voices
from trio_stt.models.kokoro import installed_kokoro
from trio_stt.settings import Settings, load

REPEATS: Final = 3

PIECES: Final = {
    "en": (
        "Good morning.",
        "The recording has started, and everybody can hear it.",
        "We will meet again next Tuesday at the office in London to talk about the plans for the year.",
    ),
    "pt": (
        "Bom dia a todos.",
        "A gravação começou, e todos podem ouvi-la agora mesmo.",
        "Vamos nos encontrar de novo na próxima terça no escritório para falar dos planos deste ano.",
    ),
}


@frozen
class Cost:
    """Of one piece."""

    speech_s: float
    waited_s: float
    processor_s: float


async def measure(settings: Settings, console: Console) -> int:
    """Prints a table; returns the exit code."""
    why, model = why_not(settings), installed_kokoro(settings.models_dir)
    if why is not None or model is None:
        console.print(f"Nothing can be measured: {why}")
        return 1
    voices = Voices(model.voices, settings.agent_voices)
    table = Table(title=f"Threads: {settings.agent_speech_threads}; medians of {REPEATS}")
    for heading in (
        "Voice",
        "Characters",
        "Speech, s",
        "First sound, s",
        "Real-time factor",
        "Processor time / speech",
    ):
        table.add_column(heading, justify="right")
    async with Synthesis(command(model, settings.agent_speech_threads)) as synthesis:
        began = time.monotonic()
        await synthesis.sound_of("Yes.", next(iter(sorted(voices.names))))
        console.print(f"From the start of the process to its first word: {time.monotonic() - began:.1f} s")
        for language, pieces in PIECES.items():
            voice = voices.voice_for(language)
            for piece in pieces if voice is not None else ():
                costs = [await _cost(synthesis, piece, voice or "") for _ in range(REPEATS)]
                speech_s, waited_s, processor_s = (
                    statistics.median(getattr(cost, name) for cost in costs)
                    for name in ("speech_s", "waited_s", "processor_s")
                )
                factors = (f"{waited_s / speech_s:.2f}", f"{processor_s / speech_s:.2f}")
                table.add_row(voice, str(len(piece)), f"{speech_s:.1f}", f"{waited_s:.1f}", *factors)
        console.print(table)
        console.print(f"Resident memory at most: {_memory_mb(synthesis.pid):.0f} MB")
    return 0


async def _cost(synthesis: Synthesis, piece: str, voice: str) -> Cost:
    began, used_s = time.monotonic(), _processor_s(synthesis.pid)
    sound = await synthesis.sound_of(piece, voice)
    return Cost(len(sound) / SAMPLE_RATE, time.monotonic() - began, _processor_s(synthesis.pid) - used_s)


def _processor_s(pid: int | None) -> float:
    """Processor time of a process so far (proc(5), stat: utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int | None) -> float:
    """The most that it ever had (proc(5), status: VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1000


if __name__ == "__main__":
    sys.exit(asyncio.run(measure(load(), Console(highlight=False, width=None if sys.stdout.isatty() else 140))))
