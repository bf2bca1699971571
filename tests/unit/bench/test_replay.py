import numpy as np

from trio_stt.bench.replay import replay
from trio_stt.recognition.call_recorder import CallRecorder, RecordingEngine, RecordingReader


class NotingRecogniser:
    def __init__(self, name, notes):
        self._name, self._notes = name, notes

    def accept(self, samples):
        self._notes.append((self._name, "accept", samples.tolist()))

    def partial(self):
        self._notes.append((self._name, "partial"))
        return ""

    def finish(self):
        self._notes.append((self._name, "finish"))
        return ()

    def forget(self):
        self._notes.append((self._name, "forget"))


class NotingEngine:
    def __init__(self):
        self.notes = []
        self._opened = 0

    def open(self):
        self._opened += 1
        self.notes.append((self._opened, "open"))
        return NotingRecogniser(self._opened, self.notes)

    def close(self, recogniser):
        self.notes.append((recogniser._name, "close"))


def test_the_same_calls_are_made_in_the_same_order_on_the_same_recognisers(tmp_path):
    recorder = CallRecorder(tmp_path / "calls")
    first = NotingEngine()
    recording = RecordingEngine(first, recorder)
    one, other = recording.open(), recording.open()
    one.accept(np.arange(3, dtype=np.int16))
    other.accept(np.arange(5, dtype=np.int16))
    one.partial()
    other.finish()
    recording.close(other)
    one.forget()
    third = recording.open()
    third.accept(np.arange(8, dtype=np.int16))
    recorder.close()

    again = NotingEngine()
    result = replay(RecordingReader(tmp_path / "calls").new_calls(), again, sample_rate=16)
    assert again.notes == first.notes
    assert result.calls == 10
    assert result.audio_s == 1.0
