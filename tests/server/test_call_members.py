"""The call that `trio-stt bench call` holds, at a server with a fake engine."""

from tests.server.conftest import running_server
from tests.unit.translation_fakes import ShoutingEngine
from trio_stt.bench.call_members import Heard, Members, hold


async def test_a_call_is_held_and_its_translations_are_timed():
    async with running_server(translation_engines=[ShoutingEngine(("en", "pt"))]) as server:
        heard = (await hold(Members(server.ws, 2, 3, "pt", 3.0))).report()
        assert heard["finals"] == len(heard["delays_s"]) >= 2
        assert heard["untranslated"] == 0
        assert not list(server.instance.sessions)


async def test_without_a_language_nothing_is_translated():
    engine = ShoutingEngine(("en", "pt"))
    async with running_server(translation_engines=[engine]) as server:
        heard = (await hold(Members(server.ws, 1, 1, "", 2.0))).report()
    assert heard["delays_s"] == engine.calls == []


def test_a_final_without_its_translation_is_counted():
    heard = Heard({"a": 1.0, "b": 2.0}, {"b": 2.5, "unknown": 3.0})
    assert heard.report() == {"finals": 2, "delays_s": [0.5], "untranslated": 1}
