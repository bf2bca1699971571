"""Vosk behind the engine protocol. The only file of the server that imports vosk."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from trio_stt.models.errors import ModelStoreError
from trio_stt.models.installed import graph_kind, is_model
from trio_stt.models.linked_model import has_shipped_graph, linked_model
from trio_stt.models.network import FRAME_MS, NetworkStep, network_step
from trio_stt.recognition.engine import (
    SAMPLE_RATE,
    Engine,
    EngineError,
    HeardWord,
    ModelError,
    PlainOptions,
    PlainRecogniser,
    Recogniser,
    Samples,
)


def _import_vosk() -> ModuleType:
    """Vosk without the HTTP client with which it would download models: that takes 5 MB and is never used here."""
    stand_in = None if "requests" in sys.modules else ModuleType("requests")
    if stand_in is not None:
        sys.modules["requests"] = stand_in
    try:
        return importlib.import_module("vosk")
    finally:
        if stand_in is not None:
            del sys.modules["requests"]


vosk = _import_vosk()

LEAST_SILENCE_FRAMES = 6
"""Silence that is decoded behind an utterance before its result is taken. That is the least: the network takes whole
steps. None would do as well for word errors; a word that is cut off decodes better with some."""

UNKNOWN_STEP = NetworkStep(frames=51, look_ahead_frames=40)
"""Assumed of a network whose file does not tell: larger than any in use."""

_FRAME_SAMPLES = SAMPLE_RATE * FRAME_MS // 1000
_WINDOW_SAMPLES = SAMPLE_RATE * 25 // 1000  # Kaldi's frames are of 25 ms

_MOST_PIPELINE_OUTPUTS = 20_000
_OUTPUT_FRAMES = 3
"""After a result vosk begins with a new feature pipeline when the old one has made more than so many outputs, of three
frames each (``Recognizer::CleanUp``): ten minutes."""

_FORGET_SILENCE = bytes(2 * SAMPLE_RATE // 10)

DYNAMIC_RECOGNISER_MB = 65
"""What one recogniser grows to when the graph is composed while decoding; with a compiled one it takes little."""

FIRST_UTTERANCE_MB = 2.4
SPEECH_MB_PER_S = 0.08
"""What a recogniser of the small English model with a compiled graph takes after its first utterance, and what each
second of decoded speech adds: measured over 50 recognisers of 7 and 21 s each."""


class VoskRecogniser:
    """One speaker's Kaldi decoder. See `trio_stt.recognition.engine.Recogniser`."""

    def __init__(self, model: Any, step: NetworkStep = UNKNOWN_STEP) -> None:
        """`step`: how the model's network takes sound."""
        self._kaldi = vosk.KaldiRecognizer(model, SAMPLE_RATE)
        self._kaldi.SetWords(True)
        self._step = step
        self._given = 0  # samples given since this recogniser was made: Kaldi's clock, on which its word times stand
        self._pipeline_start = 0  # on that clock: from where on the network's steps are counted
        self._utterance_start = 0

    def accept(self, samples: Samples) -> None:
        """Gives the next samples of the utterance. Raises `EngineError`."""
        self._accept_bytes(samples.tobytes())

    def partial(self) -> str:
        """The text so far of the open utterance."""
        return str(_parsed(self._kaldi.PartialResult()).get("partial", ""))

    def finish(self) -> tuple[HeardWord, ...]:
        """Ends the utterance and returns its words, on the utterance's own clock. Raises `EngineError`.

        `Result()` keeps the speaker adaptation that `FinalResult()` throws away, but what the network has not decoded
        yet would be missing from it: so silence is given up to the end of the step that holds the last sample.
        """
        ends_at = self._given - self._utterance_start
        decoded_frames, silence = flush(self._given - self._pipeline_start, self._step)
        self._accept_bytes(bytes(2 * silence))
        words = _parsed(self._kaldi.Result()).get("result", ())
        start = self._utterance_start
        self._utterance_start = self._given
        if decoded_frames > _MOST_PIPELINE_OUTPUTS * _OUTPUT_FRAMES:
            self._pipeline_start = self._given
        return tuple(
            HeardWord(
                text=word["word"],
                start=_within(round(word["start"] * SAMPLE_RATE) - start, ends_at),
                end=_within(round(word["end"] * SAMPLE_RATE) - start, ends_at),
                confidence=float(word["conf"]),
            )
            for word in words
        )

    def forget(self) -> None:
        """Drops the open utterance and the speaker adaptation: only a final result of a running decoder does that."""
        self._accept_bytes(_FORGET_SILENCE)
        self._kaldi.FinalResult()
        self._pipeline_start = self._utterance_start = self._given

    def _accept_bytes(self, samples: bytes) -> None:
        # The end points that Kaldi sees by itself are ignored: the speech gate decides where utterances end.
        try:
            self._kaldi.AcceptWaveform(samples)
        except Exception as error:  # vosk raises bare Exception, nothing narrower
            raise EngineError(f"Vosk could not decode {len(samples) // 2} samples: {error}") from error
        self._given += len(samples) // 2


def flush(given: int, step: NetworkStep) -> tuple[int, int]:
    """Frames decoded once the step with the last of `given` samples is, and the silence which that takes, in samples.

    `given` counts from the pipeline's first sample, and so do steps. A frame is there when all its window is.
    """
    wanted = -(-given // _FRAME_SAMPLES) + LEAST_SILENCE_FRAMES
    decoded = -(-wanted // step.frames) * step.frames
    seen = decoded + step.look_ahead_frames
    return decoded, max(0, (seen - 1) * _FRAME_SAMPLES + _WINDOW_SAMPLES - given)


class VoskPlainRecogniser:
    """Kaldi's decoder as it is, with its own end points. See `trio_stt.recognition.engine.PlainRecogniser`."""

    def __init__(self, model: Any, options: PlainOptions) -> None:
        grammar = (_grammar(model, options.phrases),) if options.phrases else ()
        self._kaldi = vosk.KaldiRecognizer(model, float(options.sample_rate), *grammar)
        self._kaldi.SetWords(options.words)
        self._kaldi.SetMaxAlternatives(options.max_alternatives)
        self.partial = self._kaldi.PartialResult
        self.result = self._kaldi.Result
        self.final = self._kaldi.FinalResult

    def accept(self, payload: bytes) -> bool:
        """Gives the next samples; the second half of an odd count of bytes is left out. Raises `EngineError`."""
        try:
            return bool(self._kaldi.AcceptWaveform(payload))
        except Exception as error:  # vosk raises bare Exception, nothing narrower
            raise EngineError(f"Vosk could not decode {len(payload) // 2} samples: {error}") from error


def _grammar(model: Any, phrases: tuple[str, ...]) -> str:
    """What vosk is given for a list of phrases: only words that the model knows, as vosk itself would leave others out.

    But vosk logs each of them, and ends the process at some (``<eps>``, with the word number 0).
    """

    def known(word: str) -> bool:
        return word.isprintable() and word[0] not in "<#" and model.vosk_model_find_word(word) > 0

    return json.dumps([" ".join(filter(known, phrase.split())) for phrase in phrases], ensure_ascii=False)


def _parsed(result: str) -> dict[str, Any]:
    try:
        return dict(json.loads(result))
    except ValueError as error:
        raise EngineError(f"Vosk gave a result that is no JSON object: {error}") from error


def _within(sample: int, end: int) -> int:
    return min(max(sample, 0), end)


def _load(folder: Path, step_ms: int | None, *, shipped_graph: bool = False) -> tuple[Any, NetworkStep]:
    vosk.SetLogLevel(-1)
    try:
        if shipped_graph and not has_shipped_graph(folder):
            raise ModelStoreError("HCLr.fst and Gr.fst, the graph as its author ships it, are missing")
        with linked_model(folder, shipped_graph=shipped_graph, step_ms=step_ms) as linked:
            return vosk.Model(str(linked)), network_step(linked) or UNKNOWN_STEP
    except Exception as error:  # vosk raises bare Exception, nothing narrower
        raise ModelError(
            f"The Vosk model in {folder} cannot be loaded ({error}). Check it with 'trio-stt models verify', "
            "or remove and install it again."
        ) from error


class VoskEngine:
    """A loaded Vosk model. With a compiled graph recognisers are made as needed; else they are pooled and reused."""

    def __init__(self, folder: Path, *, recogniser_memory_mb: int, step_ms: int | None = None) -> None:
        """Loads the model in `folder` (blocks for up to seconds). Raises `ModelError`.

        `step_ms`: sound that the network takes at once (`trio_stt.models.network`); None: as the model's author has it.
        """
        if not is_model(folder):
            raise ModelError(
                f"No Vosk model in {folder}. Install one with 'trio-stt models install en', "
                "or set VOSK_MODEL_PATH to the folder of a model."
            )
        self._model, self._step = _load(folder, step_ms)
        self._phrase_model: Any = None
        self._folder = folder
        self._step_ms = step_ms
        self.graph = graph_kind(folder)
        self._pool: list[VoskRecogniser] = []
        self._pool_lock = threading.Lock()
        self._limit = None if self.graph == "compiled" else max(1, recogniser_memory_mb // DYNAMIC_RECOGNISER_MB)

    @property
    def description(self) -> dict[str, object]:
        """Engine, model folder's name, kind of graph."""
        return {"engine": "vosk", "model": self._folder.name, "graph": self.graph}

    @property
    def recogniser_limit(self) -> int | None:
        """How many recognisers may be open at once for the memory they take; None: no such bound."""
        return self._limit

    def recogniser_mb(self, decoded_s: float) -> float:
        """About what a recogniser takes, in MB, that has decoded so many seconds of speech."""
        graph = 0 if self._limit is None else DYNAMIC_RECOGNISER_MB
        return graph + FIRST_UTTERANCE_MB + SPEECH_MB_PER_S * decoded_s

    def open(self) -> Recogniser:
        """A recogniser for one speaker: a used and warm one where the graph is composed while decoding."""
        with self._pool_lock:
            if self._pool:
                return self._pool.pop()
        try:
            return VoskRecogniser(self._model, self._step)
        except Exception as error:  # vosk raises bare Exception, nothing narrower
            raise EngineError(f"Vosk could not make a recogniser: {error}") from error

    def load_phrases(self) -> None:
        """Loads the graph that the model's author ships, if there is a compiled one: vosk cannot make phrases of that.

        It takes a second model's memory. Blocks; one call at a time. Raises `ModelError`.
        """
        if self._phrase_model is None:
            compiled = self.graph == "compiled"
            self._phrase_model = _load(self._folder, self._step_ms, shipped_graph=True)[0] if compiled else self._model

    def open_plain(self, options: PlainOptions) -> PlainRecogniser:
        """Kaldi's decoder as it is. Raises `EngineError`."""
        try:
            return VoskPlainRecogniser(self._phrase_model if options.phrases else self._model, options)
        except Exception as error:  # vosk raises bare Exception, nothing narrower
            raise EngineError(f"Vosk could not make a recogniser: {error}") from error

    def close(self, recogniser: Recogniser | PlainRecogniser) -> None:
        """Frees the recogniser, or makes it forget its speaker and keeps it for the next one."""
        if self.graph == "compiled" or not isinstance(recogniser, VoskRecogniser):
            return
        recogniser.forget()
        with self._pool_lock:
            if self._model is not None:
                self._pool.append(recogniser)

    def unload(self) -> None:
        """Frees the model. Recognisers that are not closed yet keep what they need of it until they are.

        Not left to the garbage collector, which would find a stream that is over, and with it this, much later.
        """
        self._model = self._phrase_model = None
        with self._pool_lock:
            self._pool.clear()


def warm_up(engine: Engine) -> None:
    """Decodes a second of faint noise and takes a result, so that the first speaker does not pay for first use.

    Blocks. Raises `EngineError` if the model loads but does not decode.
    """
    recogniser = engine.open()
    noise = (np.arange(SAMPLE_RATE) * 7919 % 101 - 50).astype(np.int16)  # numpy.random would stay in memory, unused
    recogniser.accept(noise)
    recogniser.partial()
    recogniser.finish()
    engine.close(recogniser)
