"""What one simulated speaker says and when: clips and silences on one line of samples, cut into frames beforehand."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from attrs import frozen

from trio_stt.bench.speech import SAMPLE_RATE, Clip, Samples


@frozen
class SpokenClip:
    """Where a clip lies in a script, in samples."""

    name: str
    start: int
    end: int


@frozen
class Script:
    """All that a speaker sends: its frames, how many samples each holds (the last may be shorter), and what is said."""

    frames: tuple[bytes, ...]
    frame_samples: int
    samples: int
    clips: tuple[SpokenClip, ...]

    @property
    def seconds(self) -> float:
        """How long it takes to say."""
        return self.samples / SAMPLE_RATE


def continuous(clips: Sequence[Clip], seconds: float, frame_ms: int, dice: random.Random) -> Script:
    """Clip after clip without a pause between them, each speaker in an order of its own, for `seconds`."""
    parts: list[Clip] = []
    while sum(len(clip.samples) for clip in parts) < seconds * SAMPLE_RATE:
        parts += dice.sample(list(clips), len(clips))
    return _script([(0, clip) for clip in parts], 0, frame_ms, round(seconds * SAMPLE_RATE))


def separate(clips: Sequence[Clip], count: int, pause_s: float, frame_ms: int, dice: random.Random) -> Script:
    """`count` clips, each after `pause_s` of silence and up to as long again, so that no two speakers keep step."""
    chosen = [dice.choice(clips) for _ in range(count)]
    pauses = [round((pause_s + dice.random() * pause_s) * SAMPLE_RATE) for _ in chosen]
    return _script(list(zip(pauses, chosen, strict=True)), round(2 * pause_s * SAMPLE_RATE), frame_ms)


def conversation(
    clips: Sequence[Clip], speakers: int, seconds: float, frame_ms: int, dice: random.Random
) -> list[Script]:
    """The scripts of `speakers` who talk in turns for `seconds`: while one speaks, the others are silent."""
    parts: list[list[tuple[int, Clip]]] = [[] for _ in range(speakers)]
    silent_samples = [0] * speakers
    turn = 0
    now = 0
    while now < seconds * SAMPLE_RATE:
        clip = dice.choice(clips)
        for speaker in range(speakers):
            if speaker == turn:
                parts[speaker].append((silent_samples[speaker], clip))
                silent_samples[speaker] = 0
            else:
                silent_samples[speaker] += len(clip.samples)
        now += len(clip.samples)
        turn = (turn + 1) % speakers
    length = round(seconds * SAMPLE_RATE)
    return [_script(each, rest, frame_ms, length) for each, rest in zip(parts, silent_samples, strict=True)]


def _script(parts: Sequence[tuple[int, Clip]], silence_after: int, frame_ms: int, length: int | None = None) -> Script:
    """Joins pauses (in samples) and clips, and cuts the whole at `length` samples."""
    line: list[Samples] = []
    spoken = []
    now = 0
    for pause, clip in parts:
        line += [np.zeros(pause, np.int16), clip.samples]
        spoken.append(SpokenClip(clip.name, now + pause, now + pause + len(clip.samples)))
        now += pause + len(clip.samples)
    line.append(np.zeros(silence_after, np.int16))
    samples = np.concatenate(line)[:length]
    step = SAMPLE_RATE * frame_ms // 1000
    frames = tuple(samples[at : at + step].astype("<i2").tobytes() for at in range(0, len(samples), step))
    return Script(frames, step, len(samples), tuple(clip for clip in spoken if clip.end <= len(samples)))
