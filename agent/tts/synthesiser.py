"""The process that speaks: ``python -m agent.tts.synthesiser MODEL VOICES THREADS``; on its pipes: `agent.tts.frames`.

Only here are kokoro-onnx and phonemizer imported: phonemizer is GPL-3, and computing a sentence holds a processor for
seconds, which no event loop may wait for. It gives way to everything else (nice 10).
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from agent.tts.frames import MOST_SAMPLES_BYTES, write_frame
from agent.tts.voices import accent_of
from trio_stt.operations.logs import without_message

NICE: Final = 10


class CancelledError(Exception):
    """The sentence is not wanted any more."""


class Synthesiser:
    """The loaded model. Raises whatever its libraries raise when there is something wrong with the files."""

    def __init__(self, model: str, voices: str, threads: int) -> None:
        import onnxruntime
        from kokoro_onnx import Kokoro

        synthesiser = self

        class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
            def run(self, names: Any, inputs: Any, options: Any = None) -> Any:
                return super().run(names, inputs, synthesiser._run_options)

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._options_class = onnxruntime.RunOptions
        self._run_options = onnxruntime.RunOptions()
        self._is_cancelled = False
        session = Session(model, options, providers=["CPUExecutionProvider"])
        self._kokoro = Kokoro.from_session(session, voices)
        self._readers: dict[str, Any] = {}

    def speak(self, text: str, voice: str) -> npt.NDArray[np.int16]:
        """The sound of `text`, clipped, `agent.tts.frames.SAMPLE_RATE`; of a voice that is installed.

        Raises `CancelledError`, and `ValueError` where there is nothing to say.
        """
        self._run_options = self._options_class()
        if self._is_cancelled:
            raise CancelledError
        try:
            sound, _ = self._kokoro.create(self.phonemes(text, accent_of(voice).espeak), voice, is_phonemes=True)
        except Exception:
            if self._is_cancelled:  # ONNX Runtime says in several ways that it was broken off
                raise CancelledError from None
            raise
        loud: npt.NDArray[np.int16] = (np.clip(sound, -1.0, 1.0) * 32767).astype("<i2")
        return loud[: MOST_SAMPLES_BYTES // 2]

    def phonemes(self, text: str, language: str) -> str:
        """How Kokoro is told to say `text`; `language` as espeak-ng calls it."""
        from phonemizer.backend import EspeakBackend

        reader = self._readers.get(language)
        if reader is None:
            # Without its flags: "(en)" before an English word in a Portuguese sentence would be read out.
            reader = self._readers[language] = EspeakBackend(
                language, preserve_punctuation=True, with_stress=True, language_switch="remove-flags"
            )
        written: str = reader.phonemize([text])[0]
        return written.strip()

    def cancel(self) -> None:
        """Breaks off what `speak` computes, or will compute next, within about 50 ms; from any thread."""
        self._is_cancelled = True
        self._run_options.terminate = True

    def renew(self) -> None:
        """What was cancelled was answered."""
        self._is_cancelled = False


class Requests:
    """Requests as they come in, read by a thread of their own so that one can be cancelled while it is computed."""

    def __init__(self, stream: BinaryIO, synthesiser: Synthesiser) -> None:
        self._stream = stream
        self._synthesiser = synthesiser
        self._waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._current: int | None = None
        self._cancelled: set[int] = set()
        self._last_id = 0
        threading.Thread(target=self._read, daemon=True, name="requests").start()

    def next(self) -> dict[str, Any] | None:
        """The next request; None: no more come."""
        request = self._waiting.get()
        if request is None:
            return None
        with self._lock:
            self._synthesiser.renew()
            self._current = self._last_id = request["id"]
            if request["id"] in self._cancelled:
                self._synthesiser.cancel()
        return request

    def done(self) -> None:
        """The request was answered."""
        with self._lock:
            self._cancelled = {id for id in self._cancelled if id > self._last_id}
            self._current = None

    def _read(self) -> None:
        for written in self._stream:
            content = json.loads(written)
            if "cancel" not in content:
                self._waiting.put(content)
                continue
            with self._lock:
                self._cancelled.add(content["cancel"])
                if content["cancel"] == self._current:
                    self._synthesiser.cancel()
        with self._lock:
            if self._current is not None:
                self._synthesiser.cancel()
        self._waiting.put(None)


def main(arguments: list[str]) -> int:
    """Speaks until its input ends; returns the exit code."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not come between the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal; the agent ends this one
    logging.disable()  # libraries would log what is said
    if hasattr(os, "nice"):
        os.nice(NICE)
    model, voices, threads = arguments
    try:
        synthesiser = Synthesiser(model, voices, int(threads))
    except Exception as error:  # noqa: BLE001 - told the agent, which logs it
        write_frame(answers, {"status": "failed", "error": f"{type(error).__name__}: {error}"[:1000]})
        return 1
    requests = Requests(sys.stdin.buffer, synthesiser)
    try:
        write_frame(answers, {"status": "ready"})
        while (request := requests.next()) is not None:
            _answer(request, synthesiser, answers)
            requests.done()
    except BrokenPipeError:
        os._exit(0)  # the agent is gone: nobody takes what is written, at the end neither
    return 0


def _answer(request: dict[str, Any], synthesiser: Synthesiser, answers: BinaryIO) -> None:
    id = request["id"]
    try:
        samples = synthesiser.speak(request["text"], request["voice"])
    except CancelledError:
        write_frame(answers, {"id": id, "status": "cancelled"})
    except Exception as error:  # noqa: BLE001 - one sentence cannot be said; its message may hold the text
        write_frame(answers, {"id": id, "status": "failed", "error": without_message(error)})
    else:
        write_frame(answers, {"id": id, "status": "spoken"}, samples.tobytes())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
