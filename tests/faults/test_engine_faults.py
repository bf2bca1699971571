"""Drills: the recogniser or the speech detector fails while people talk."""

import httpx
import pytest
import trio

from tests.server.conftest import finals_of, running_server
from tests.unit.fakes import FakeEngine, silence, sound
from trio_stt.audio.vad import DetectorError, Energy
from trio_stt.client.websocket import StreamRefusedError


class FailingEnergy(Energy):
    """An energy detector under another name, which fails while `broken`."""

    name = "preferred"

    def __init__(self):
        self.broken = False

    def probabilities(self, batch):
        if self.broken:
            raise RuntimeError("planted")
        return super().probabilities(batch)


def give_detectors(monkeypatch, *given, missing=()):
    monkeypatch.setattr("trio_stt.app.detectors", lambda engine, device: (given, missing))


async def health_of(server) -> dict:
    async with httpx.AsyncClient(base_url=server.http) as client:
        return (await client.get("/health")).json()


async def test_a_call_that_fails_once_costs_no_word():
    engine = FakeEngine()
    async with running_server(engine) as server, server.speaker() as ann:
        await ann.send_audio(sound(1).tobytes())
        engine.failures = 1
        await ann.send_audio(sound(1).tobytes())
        await ann.send_audio(silence(1).tobytes())
        (final,) = await finals_of(ann, 1)
        assert final.text == "w1 w2 w3 w4"


async def test_while_calls_keep_failing_newcomers_are_refused_and_who_is_in_loses_nothing():
    engine = FakeEngine()
    changes = {"stt_circuit_breaker_min_calls": 4, "stt_circuit_breaker_timeout": 0.2}
    async with running_server(engine, **changes) as server, server.speaker() as ann:
        with trio.fail_after(20):
            engine.failures = 1_000_000
            await ann.send_audio(sound(1).tobytes())
            while server.instance.admission.ready:
                await trio.sleep(0.01)
                await ann.send_audio(sound(0.1).tobytes())
            with pytest.raises(StreamRefusedError, match="503"):
                async with server.speaker("bob"):
                    pass
            health = await health_of(server)
            assert health["details"]["recogniser"]["breakers"] == {"vosk:vosk-model": "open"}
            await ann.send_audio(sound(1).tobytes())
            engine.failures = 0
            while not server.instance.admission.ready:
                await trio.sleep(0.01)
            async with server.speaker("bob"):
                pass
            await ann.end()
            (final,) = await finals_of(ann, 1)
            assert final.text.startswith("w1 w2 w3 w4")
            assert final.end_sample >= 2 * 16000


async def test_a_detector_that_fails_midway_is_replaced_without_losing_a_word(monkeypatch):
    preferred = FailingEnergy()
    give_detectors(monkeypatch, preferred, Energy())
    async with running_server() as server, server.speaker() as ann:
        await ann.send_audio(silence(0.5).tobytes())
        await ann.send_audio(sound(1).tobytes())
        while not server.instance.resting.speaking:
            await trio.sleep(0.01)
        preferred.broken = True
        await ann.send_audio(sound(1).tobytes())
        await ann.send_audio(silence(1).tobytes())
        (final,) = await finals_of(ann, 1)
        assert final.end_sample - final.start_sample >= 2 * 16000
        health = await health_of(server)
        assert health["details"]["voice_activity"]["status"] == "degraded"
        assert health["details"]["voice_activity"]["detector"] == "energy"


async def test_a_detector_that_cannot_be_had_at_the_start_is_done_without(monkeypatch):
    give_detectors(monkeypatch, Energy(), missing=(DetectorError("planted"),))
    async with running_server() as server, server.speaker() as ann:
        await ann.send_audio(silence(0.5).tobytes())
        await ann.send_audio(sound(1).tobytes())
        await ann.send_audio(silence(1).tobytes())
        (final,) = await finals_of(ann, 1)
        assert final.text
