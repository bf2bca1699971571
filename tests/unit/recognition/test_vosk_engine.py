import numpy as np
import pytest

from trio_stt.models.network import NetworkStep
from trio_stt.recognition import vosk_engine
from trio_stt.recognition.engine import EngineError, ModelError
from trio_stt.recognition.vosk_engine import VoskEngine, VoskRecogniser, flush


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


STEP = NetworkStep(frames=42, look_ahead_frames=17)
"""The small English model's, at steps of 400 ms."""


@pytest.mark.parametrize("given_s", [0.0, 0.1, 0.36, 0.37, 1.0, 7.77])
def test_silence_is_given_to_the_end_of_the_step_that_holds_the_last_sample(given_s):
    given = round(given_s * 16000)
    decoded_frames, silence = flush(given, STEP)
    assert decoded_frames % STEP.frames == 0
    assert 60 <= 10 * decoded_frames - 1000 * given_s < 60 + 420
    # The last frame that the network looks at is whole, and the next one is not there.
    last_frame_ends = (decoded_frames + STEP.look_ahead_frames - 1) * 160 + 400
    assert given + silence == last_frame_ends


def test_words_stand_on_the_utterance_s_own_clock():
    recogniser = VoskRecogniser("model", STEP)
    recogniser.accept(np.zeros(16000, np.int16))
    recogniser.finish()  # 126 frames and 17 beyond: the next utterance begins at 1.445 s of Kaldi's clock
    recogniser.accept(np.zeros(16000, np.int16))
    recogniser._kaldi.result = '{"result": [{"word": "hi", "start": 1.695, "end": 2.9, "conf": 0.5}]}'
    (word,) = recogniser.finish()
    assert (word.start, word.end) == (4000, 16000)


def test_a_recogniser_that_cannot_be_made_is_an_engine_error():
    engine = VoskEngine.__new__(VoskEngine)
    engine._pool, engine._model, engine._step, engine._pool_lock = [], "broken", STEP, vosk_engine.threading.Lock()
    with pytest.raises(EngineError):
        engine.open()


def test_a_failed_call_and_a_broken_result_are_engine_errors():
    recogniser = VoskRecogniser("model", STEP)
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


def test_steps_are_counted_anew_where_vosk_begins_with_a_new_pipeline():
    recogniser = VoskRecogniser("model", STEP)
    recogniser.accept(np.zeros(16000 * 599, np.int16))
    recogniser.finish()
    within, at = recogniser._kaldi.bytes // 2, flush(16000 * 599, STEP)[1] + 16000 * 599
    assert within == at
    recogniser.accept(np.zeros(16000 * 5, np.int16))  # past ten minutes: the result after this begins anew
    recogniser.finish()
    recogniser.accept(np.zeros(16000, np.int16))
    before = recogniser._kaldi.bytes // 2
    recogniser.finish()
    assert recogniser._kaldi.bytes // 2 - before == flush(16000, STEP)[1]
