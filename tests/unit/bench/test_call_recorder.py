import itertools
import stat

import numpy as np
import pytest

from trio_stt.recognition.call_recorder import CallRecorder, Operation, RecordingEngine, RecordingReader
from trio_stt.recognition.engine import EngineError, HeardWord


class EchoRecogniser:
    def __init__(self):
        self.heard = []

    def accept(self, samples):
        if samples.size == 13:
            raise EngineError("thirteen")
        self.heard.append(samples)

    def partial(self):
        return f"{len(self.heard)} chunks"

    def finish(self):
        return (HeardWord("done", 0, 1, 1.0),)

    def forget(self):
        self.heard.clear()


class EchoEngine:
    recogniser_limit = 7

    def __init__(self):
        self.description = {"engine": "echo"}
        self.closed = []

    def open(self):
        return EchoRecogniser()

    def close(self, recogniser):
        self.closed.append(recogniser)


@pytest.fixture
def engine():
    return EchoEngine()


@pytest.fixture
def recorder(tmp_path):
    recorder = CallRecorder(tmp_path / "calls")
    yield recorder
    recorder.close()


def test_calls_are_read_back_in_order_with_their_samples(tmp_path, engine, recorder):
    recording = RecordingEngine(engine, recorder)
    first, second = recording.open(), recording.open()
    samples = np.array([-32768, 0, 32767], np.int16)
    first.accept(samples)
    assert second.partial() == "0 chunks"
    assert first.finish() == (HeardWord("done", 0, 1, 1.0),)
    first.forget()
    recording.close(first)
    recorder.close()

    calls = list(RecordingReader(tmp_path / "calls").new_calls())
    assert [(call.operation, call.recogniser) for call in calls] == [
        (Operation.OPEN, 1),
        (Operation.OPEN, 2),
        (Operation.ACCEPT, 1),
        (Operation.PARTIAL, 2),
        (Operation.FINISH, 1),
        (Operation.FORGET, 1),
        (Operation.CLOSE, 1),
    ]
    np.testing.assert_array_equal(calls[2].samples, samples)
    assert all(one.began_ns <= other.began_ns for one, other in itertools.pairwise(calls))


def test_a_growing_recording_is_whole_whenever_no_recogniser_is_open(tmp_path, engine, recorder):
    recording, reader = RecordingEngine(engine, recorder), RecordingReader(tmp_path / "calls")
    for _ in range(2):
        recording.close(recording.open())
        assert [call.operation for call in reader.new_calls()] == [Operation.OPEN, Operation.CLOSE]
    assert not list(reader.new_calls())


def test_the_engine_gets_its_own_recogniser_back(engine, recorder):
    recording = RecordingEngine(engine, recorder)
    recording.close(recording.open())
    assert isinstance(engine.closed[0], EchoRecogniser)
    assert recording.description == {"engine": "echo"}
    assert recording.recogniser_limit == 7


def test_a_failing_call_raises_and_is_not_recorded(tmp_path, engine, recorder):
    recogniser = RecordingEngine(engine, recorder).open()
    with pytest.raises(EngineError):
        recogniser.accept(np.zeros(13, np.int16))
    recorder.close()
    assert [call.operation for call in RecordingReader(tmp_path / "calls").new_calls()] == [Operation.OPEN]


def test_only_the_owner_may_read_the_recording(tmp_path, recorder):
    assert stat.S_IMODE((tmp_path / "calls").stat().st_mode) == 0o600


@pytest.mark.parametrize("cut_bytes", [1, 5, 20])
def test_a_recording_cut_short_is_an_error(tmp_path, engine, recorder, cut_bytes):
    RecordingEngine(engine, recorder).open().accept(np.arange(10, dtype=np.int16))
    recorder.close()
    whole = (tmp_path / "calls").read_bytes()
    (tmp_path / "calls").write_bytes(whole[:-cut_bytes])
    with pytest.raises(ValueError, match="ends within a call"):
        list(RecordingReader(tmp_path / "calls").new_calls())


def test_another_file_is_not_taken_for_a_recording(tmp_path):
    (tmp_path / "calls").write_bytes(b"RIFF....WAVE")
    with pytest.raises(ValueError, match="not a recording"):
        list(RecordingReader(tmp_path / "calls").new_calls())
