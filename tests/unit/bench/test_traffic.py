import json

import numpy as np
import pytest
from wsproto import ConnectionType
from wsproto.connection import Connection

from trio_stt.bench.speech import Clip
from trio_stt.bench.stream_lag import Dialect
from trio_stt.bench.traffic import START_SPREAD_S, framed, goodbye, talkers, target

CLIP = Clip("clip", np.arange(4000, dtype=np.int16), ("word",))


def payloads(*frames: bytes) -> list[bytes | str]:
    server = Connection(ConnectionType.SERVER)
    server.receive_data(b"".join(frames))
    return [event.data for event in server.events()]


@pytest.mark.parametrize("dialect", Dialect)
def test_the_frames_hold_the_sessions_samples(dialect):
    session = framed(CLIP, 100, dialect)
    found = payloads(*session.frames)
    assert [len(each) for each in found] == [3200, 3200, 1600]
    assert b"".join(found) == CLIP.samples.tobytes()
    assert session.seconds == pytest.approx(0.3)


def test_vosk_server_is_told_the_sample_rate_first():
    (config,) = payloads(framed(CLIP, 100, Dialect.VOSK_SERVER).opening)
    assert json.loads(config) == {"config": {"sample_rate": 16000}}
    assert payloads(goodbye(Dialect.VOSK_SERVER)) == ['{"eof" : 1}']
    assert target("/any", Dialect.VOSK_SERVER) == "/any"
    assert target("", Dialect.VOSK_SERVER) == "/"


@pytest.mark.parametrize("path", ["", "/", "/ws/vosk", "/ws/vosk/"])
def test_a_native_servers_address_may_end_with_its_path_or_before_it(path):
    assert target(path, Dialect.NATIVE).startswith("/ws/vosk/?client_id=")
    assert target("/behind" + path, Dialect.NATIVE).startswith("/behind/ws/vosk/?client_id=")


def test_talkers_begin_one_by_one_at_different_places_of_all_sessions():
    library = [framed(CLIP, 10, Dialect.NATIVE) for _ in range(6)]
    plan = talkers(40, library, seed=1)
    starts = [talker.starts_s for talker in plan]
    assert starts == sorted(starts)
    assert 0 <= starts[0] < starts[-1] < START_SPREAD_S
    assert all(sorted(talker.sessions) == list(range(6)) for talker in plan)
    assert len({talker.skipped_frames for talker in plan}) > 10
    assert plan == talkers(40, library, seed=1)
