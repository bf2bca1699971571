"""Twins without threads or models: a voice detector that hears loudness, a recogniser that counts samples."""

import json
import threading

import numpy as np
import trio

from trio_stt.recognition.engine import SAMPLE_RATE, EngineError, HeardWord

LOUD = 8000
HALF_SAMPLES = 20
"""Half a period of the square wave that is sound here: 400 Hz at 16 kHz."""

WORD_SAMPLES = SAMPLE_RATE // 2


def sound(seconds: float, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Loud sound: speech to `LoudnessVoice`, and to real detectors, which do not hear a constant level."""
    halves = np.arange(round(seconds * rate)) // HALF_SAMPLES % 2
    return np.where(halves, -LOUD, LOUD).astype(np.int16)


def silence(seconds: float, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Digital silence."""
    return np.zeros(round(seconds * rate), np.int16)


class InlineDecoders:
    """`Decoders` without threads."""

    async def run(self, call, turn=None, *, owner=""):
        await trio.lowlevel.checkpoint()
        return call()


class LoudnessVoice:
    """A `VoiceStream` to which every loud window is speech."""

    async def probabilities(self, windows):
        await trio.lowlevel.checkpoint()
        return (np.abs(windows).max(axis=1) > LOUD / 2).astype(np.float32)


class CountingRecogniser:
    """Hears a word for each half second of loud sound: "w1" in the first half second of the utterance, and so on."""

    def __init__(self, engine):
        self.engine = engine
        self.heard = []

    def accept(self, samples):
        if self.engine.failures:
            self.engine.failures -= 1
            raise EngineError("planted")
        self.engine.given.append(samples)
        self.heard.append(samples)

    def _words(self):
        samples = np.concatenate(self.heard) if self.heard else np.zeros(0, np.int16)
        starts = range(0, len(samples) - WORD_SAMPLES // 2, WORD_SAMPLES)
        return [
            HeardWord(f"w{number}", start, min(start + WORD_SAMPLES, len(samples)), 0.9)
            for number, start in enumerate(starts, 1)
            if np.abs(samples[start : start + WORD_SAMPLES]).max() > LOUD / 2
        ]

    def partial(self):
        return " ".join(word.text for word in self._words())

    def finish(self):
        words, self.heard = tuple(self._words()), []
        return words

    def forget(self):
        self.heard = []


class CountingPlainRecogniser:
    """Hears a word in each loud frame, numbered over the whole stream; a silent frame after words is an end point."""

    def __init__(self, engine, options):
        self.engine = engine
        self.options = options
        self.frames = 0
        self.words = []

    def accept(self, payload):
        if self.engine.failures:
            self.engine.failures -= 1
            raise EngineError("planted")
        self.frames += 1
        loud = any(payload)
        if loud:
            self.words.append(f"w{self.frames}")
        return bool(self.words) and not loud

    def partial(self):
        return json.dumps({"partial": " ".join(self.words)})

    def result(self):
        words, self.words = self.words, []
        return json.dumps({"text": " ".join(words)})

    final = result


class FakeEngine:
    """An `Engine` of recognisers that count; `failures` of the next calls to `accept` raise."""

    recogniser_limit = None

    def __init__(self):
        self.description = {"engine": "fake", "model": "fake", "graph": "compiled"}
        self.failures = 0
        self.given = []
        self.open_recognisers = 0
        self.unloaded = False
        self.plain = []  # the options of each plain recogniser that was opened

    def load_phrases(self):
        pass

    def open_plain(self, options):
        self.open_recognisers += 1
        self.plain.append(options)
        return CountingPlainRecogniser(self, options)

    def recogniser_mb(self, decoded_s):
        return decoded_s

    def open(self):
        self.open_recognisers += 1
        return CountingRecogniser(self)

    def close(self, recogniser):
        self.open_recognisers -= 1

    def unload(self):
        self.unloaded = True


HANG = 31_000
"""A sample of at least this makes the engine below hang."""


class HangingEngine(FakeEngine):
    """An `Engine` whose calls do not return once they have met `HANG`, until `release` is called."""

    def __init__(self):
        super().__init__()
        self._released = threading.Event()

    def open(self):
        self.open_recognisers += 1
        return _HangingRecogniser(self, self._released)

    def open_plain(self, options):
        return _HangingPlainRecogniser(super().open_plain(options), self._released)

    def release(self):
        self._released.set()


class _HangingRecogniser(CountingRecogniser):
    def __init__(self, engine, released):
        super().__init__(engine)
        self._released = released

    def accept(self, samples):
        if samples.max(initial=0) >= HANG:
            self._released.wait()
        super().accept(samples)


class _HangingPlainRecogniser:
    def __init__(self, recogniser, released):
        self._recogniser = recogniser
        self._released = released
        self.partial = recogniser.partial
        self.result = recogniser.result
        self.final = recogniser.final

    def accept(self, payload):
        if np.frombuffer(payload, "<i2").max(initial=0) >= HANG:
            self._released.wait()
        return self._recogniser.accept(payload)
