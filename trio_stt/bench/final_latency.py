"""How long after the end of what was said its final comes."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from trio_stt.bench.load import ReceivedFinal, Speaker
from trio_stt.bench.script import SpokenClip


@frozen
class FinalLatencies:
    """Seconds from sending a clip's last sample to its final, for each clip; and how many clips had no final at all."""

    seconds: tuple[float, ...]
    without_final: int


def final_latencies(speakers: Iterable[Speaker]) -> FinalLatencies:
    """The latencies of all clips of all speakers.

    A clip's last sample is sent with its frame, when that frame is full. Where a clip has more than one final, the last
    one counts; it may even have come before the last sample, if the clip ends with a sound that is no speech.
    """
    seconds = []
    without_final = 0
    for speaker in speakers:
        for clip in speaker.script.clips:
            finals = [final for final in speaker.finals if _covers(final, clip)]
            if finals:
                seconds.append(finals[-1].at_s - speaker.sent_at_s[(clip.end - 1) // speaker.script.frame_samples])
            else:
                without_final += 1
    return FinalLatencies(tuple(seconds), without_final)


def _covers(final: ReceivedFinal, clip: SpokenClip) -> bool:
    return bool(final.text) and final.start < clip.end and final.end > clip.start
