"""What decoding costs is measured by decoding canned speech."""

import numpy as np

from tests.unit.fakes import CountingRecogniser, FakeEngine
from trio_stt.recognition import calibration
from trio_stt.recognition.calibration import LEAST_COST, SPEAKERS, Measurement, canned_speech


class BusyRecogniser(CountingRecogniser):
    def accept(self, samples):
        super().accept(samples)
        self.engine.now_s += len(samples) / 16000 * 0.03


class BusyEngine(FakeEngine):
    """Decodes a second in 0.03 s of CPU time, which is told by `thread_time`."""

    def __init__(self, recogniser_limit=None):
        super().__init__()
        self.recogniser_limit = recogniser_limit
        self.now_s = 0.0
        self.most_open = 0

    def open(self):
        self.open_recognisers += 1
        self.most_open = max(self.most_open, self.open_recognisers)
        return BusyRecogniser(self)


def measure(engine, monkeypatch):
    monkeypatch.setattr(calibration.time, "thread_time", lambda: engine.now_s)
    measurement = Measurement(engine, canned_speech())
    while measurement.step():
        pass
    return measurement.decode_cost


def test_the_cost_is_that_of_the_thread_for_each_second_of_speech(monkeypatch):
    engine = BusyEngine()
    assert np.isclose(measure(engine, monkeypatch), 0.03)
    assert engine.open_recognisers == 0
    assert engine.most_open == SPEAKERS


def test_it_ends_when_enough_was_spent(monkeypatch):
    engine = BusyEngine()
    measure(engine, monkeypatch)
    assert engine.now_s < calibration.ENOUGH_S + SPEAKERS * 0.4 * 0.03


def test_pooled_recognisers_are_not_multiplied(monkeypatch):
    engine = BusyEngine(recogniser_limit=30)
    measure(engine, monkeypatch)
    assert engine.most_open == 1


def test_a_measurement_of_nothing_is_not_believed(monkeypatch):
    monkeypatch.setattr(calibration.time, "thread_time", lambda: 0.0)
    measurement = Measurement(FakeEngine(), canned_speech())
    while measurement.step():
        pass
    assert measurement.decode_cost == LEAST_COST


def test_the_canned_speech_is_speech():
    speech = canned_speech()
    assert 8 < len(speech) / 16000 < 12
    assert np.abs(speech).max() > 8000
