"""Real speech with its transcriptions, to measure with."""

from __future__ import annotations

import re
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from attrs import evolve, frozen

SAMPLE_RATE = 16000
"""Samples a second of all clips."""

Samples = npt.NDArray[np.int16]
"""Mono signed 16-bit samples, shape (n,)."""

TRIM_DB = 40.0
"""What is this much quieter than a clip's loudest moment, at its ends, is not speech."""

_TRIM_WINDOW = SAMPLE_RATE // 100  # samples, 10 ms

TEST_DATA = Path("usr/share/pocketsphinx/test/data")
"""Where Debian's pocketsphinx-testdata lies under the root, or under the folder that set-up unpacked it in."""

TEST_DATA_ROOTS = (Path("/"), Path(".cache/pocketsphinx-testdata"))

_PARTS = ("librivox", "cards")


class SpeechError(Exception):
    """There is no usable speech. The message says what to do."""


@frozen
class Clip:
    """A recording of one utterance or more and the words that are said in it, in lower case."""

    name: str
    samples: Samples
    words: tuple[str, ...]
    sample_rate: int = SAMPLE_RATE

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / self.sample_rate


def load_speech(folder: Path | None = None) -> list[Clip]:
    """All clips of `folder` (default: Debian's pocketsphinx-testdata). Raises `SpeechError`.

    A folder, or its sub-folders, hold 16 kHz mono 16-bit WAV files and either one file whose name ends in
    ``transcription`` with a line ``words (NAME)`` for each, or a ``NAME.txt`` beside each ``NAME.wav``.
    """
    folders = _test_data_folders() if folder is None else [folder, *sorted(folder.glob("*/"))]
    clips = [clip for each in folders for clip in _clips_in(each)]
    if not clips:
        where = "Debian's test recordings are not here" if folder is None else f"No recordings with words in {folder}"
        raise SpeechError(
            f"{where}. Install them with 'apt install pocketsphinx-testdata' or './scripts/setup.sh --test', or give "
            "--speech a folder of 16 kHz mono 16-bit WAV files with a 'transcription' file or a .txt beside each."
        )
    return clips


def trimmed(clip: Clip) -> Clip:
    """The clip without what is `TRIM_DB` quieter than its loudest 10 ms at both ends."""
    windows = clip.samples[: len(clip.samples) // _TRIM_WINDOW * _TRIM_WINDOW].reshape(-1, _TRIM_WINDOW)
    power = np.mean(np.square(windows.astype(np.float64)), axis=1)
    loud = np.flatnonzero(power > power.max(initial=0.0) / 10 ** (TRIM_DB / 10))
    if not len(loud):
        return clip
    return evolve(clip, samples=clip.samples[loud[0] * _TRIM_WINDOW : (loud[-1] + 1) * _TRIM_WINDOW])


def words_of(text: str) -> tuple[str, ...]:
    """The words of a transcription as a recogniser would write them: lower case, no marks but the apostrophe."""
    return tuple(re.findall(r"[\w']+", re.sub(r"</?s>", " ", text.lower())))


def _test_data_folders() -> list[Path]:
    for root in TEST_DATA_ROOTS:
        if (root / TEST_DATA).is_dir():
            return [root / TEST_DATA / part for part in _PARTS]
    return []


def _clips_in(folder: Path) -> Iterator[Clip]:
    texts = {file.stem: file.read_text("utf-8") for file in folder.glob("*.txt")}
    for listing in folder.glob("*transcription"):
        for line in listing.read_text("utf-8").splitlines():
            if match := re.fullmatch(r"(.*)\(([^()]+)\)\s*", line):
                texts[match[2]] = match[1]
    for name, text in sorted(texts.items()):
        file = folder / f"{name}.wav"
        if file.is_file():
            yield Clip(name, _read_wav(file), words_of(text))


def _read_wav(file: Path) -> Samples:
    try:
        with wave.open(str(file)) as sound:
            if (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) != (SAMPLE_RATE, 1, 2):
                raise SpeechError(f"{file} is not 16 kHz mono 16-bit.")
            return np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(np.int16)
    except (wave.Error, EOFError) as error:
        raise SpeechError(f"{file} is not a WAV file that can be read: {error}.") from error
