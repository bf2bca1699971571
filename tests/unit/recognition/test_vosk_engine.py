import numpy as np
import pytest

from trio_stt.recognition import vosk_engine
from trio_stt.recognition.engine import EngineError, ModelError
from trio_stt.recognition.vosk_engine import VoskEngine, VoskRecogniser


class Kaldi:
    """What `vosk.KaldiRecognizer` is to us; hears `result` and fails when told to."""

    def __init__(self, model, rate):
        if model == "broken":
            raise Exception("Failed to create a recognizer")
        self.result = '{"text": ""}'
        self.bytes = 0

    def SetWords(self, on):  # noqa: N802
        pass

    def AcceptWaveform(self, data):  # noqa: N802
        if data == b"\xff\xff":
            raise Exception("Failed to process waveform")
        self.bytes += len(data)

    def Result(self):  # noqa: N802
        return self.result

    PartialResult = Result


@pytest.fixture(autouse=True)
def kaldi(monkeypatch):
    monkeypatch.setattr(vosk_engine.vosk, "KaldiRecognizer", Kaldi)


def test_words_stand_on_the_utterance_s_own_clock():
    recogniser = VoskRecogniser("model")
    recogniser.accept(np.zeros(16000, np.int16))
    recogniser.finish()  # half a second of silence flushes it: the next utterance begins at 1.5 s of Kaldi's clock
    recogniser.accept(np.zeros(16000, np.int16))
    recogniser._kaldi.result = '{"result": [{"word": "hi", "start": 1.75, "end": 2.9, "conf": 0.5}]}'
    (word,) = recogniser.finish()
    assert (word.start, word.end) == (4000, 16000)


def test_a_recogniser_that_cannot_be_made_is_an_engine_error():
    engine = VoskEngine.__new__(VoskEngine)
    engine._pool, engine._model, engine._pool_lock = [], "broken", vosk_engine.threading.Lock()
    with pytest.raises(EngineError):
        engine.open()


def test_a_failed_call_and_a_broken_result_are_engine_errors():
    recogniser = VoskRecogniser("model")
    with pytest.raises(EngineError):
        recogniser.accept(np.array([-1], np.int16))
    recogniser._kaldi.result = "{"
    with pytest.raises(EngineError):
        recogniser.partial()
    with pytest.raises(EngineError):
        recogniser.finish()


def test_a_folder_without_a_model_names_the_command_that_installs_one(tmp_path):
    with pytest.raises(ModelError, match="trio-stt models install"):
        VoskEngine(tmp_path, recogniser_memory_mb=100)
