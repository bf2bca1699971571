"""Speakers of several languages at one server: each is heard by the model of its own, loaded when it is needed."""

import json
import threading

import attrs
import httpx
import pytest
import trio
from click.testing import CliRunner

from tests.server.conftest import finals_of, running_server
from tests.server.test_misuse import nothing_left
from tests.server.test_refusals import refusal
from tests.server.test_resume import SECRET, cut, speaker
from tests.tokens import KEYS, token
from tests.unit.fakes import CountingRecogniser, FakeEngine, silence, sound
from tests.unit.speech_models import lay_model
from trio_stt.__main__ import main
from trio_stt.client.websocket import StreamRefusedError, connect
from trio_stt.dialects.events import Ack, Configured, Failure, Transcript
from trio_stt.recognition.engine import ModelError
from trio_stt.recognition.model_shelf import LoadOutcome, UnloadOutcome


class NativeEngine(FakeEngine):
    """Hears words of its own language: "de1 de2"."""

    def __init__(self, language, recogniser_limit=None):
        super().__init__()
        self.language = language
        self.recogniser_limit = recogniser_limit

    def open(self):
        self.open_recognisers += 1
        return _NativeRecogniser(self)


class _NativeRecogniser(CountingRecogniser):
    def partial(self):
        return super().partial().replace("w", self.engine.language)

    def finish(self):
        return tuple(attrs.evolve(word, text=word.text.replace("w", self.engine.language)) for word in super().finish())


class Models:
    """What a server loads: an engine for each language; `gate` holds loads back while it is clear."""

    def __init__(self, folder, *languages, limits=None):
        self.folder = folder
        for language in languages:
            lay_model(folder, language)
        self.engines = {}
        self.loads = []
        self.broken = set()
        self.limits = limits or {}
        self.gate = threading.Event()
        self.gate.set()

    def load(self, settings):
        if settings.language != "en":
            self.gate.wait()
        self.loads.append(settings.language)
        if settings.language in self.broken:
            raise ModelError("planted")
        self.engines[settings.language] = NativeEngine(settings.language, self.limits.get(settings.language))
        return self.engines[settings.language]

    def server(self, **changes):
        return running_server(load_engine=self.load, models_dir=self.folder, **changes)


@pytest.fixture
def models(tmp_path):
    models = Models(tmp_path, "en", "de", "fr")
    yield models
    models.gate.set()


async def words_of(stream, seconds=1) -> str:
    await stream.send_audio(sound(seconds).tobytes())
    await stream.finalize()
    (final,) = await finals_of(stream, 1)
    return final.text


async def test_each_speaker_is_heard_in_its_own_language_by_its_primary_subtag(models):
    async with (
        models.server() as server,
        server.speaker("ann", language="de-AT") as ann,
        server.speaker("bob", language="DE") as bob,
        server.speaker("eve", language="en-GB") as eve,
    ):
        await ann.send_audio(sound(1).tobytes())
        await ann.finalize()
        for listener in (ann, bob, eve):
            (final,) = await finals_of(listener, 1)
            assert (final.text, final.language) == ("de1 de2", "de-AT")
        assert await words_of(eve) == "en1 en2"
        assert sorted(models.loads) == ["de", "en"]
    await nothing_left(server)
    assert [model.users for model in server.instance.shelf] == [0, 0, 0]


async def test_many_speakers_of_a_new_language_share_one_load(models):
    async with models.server() as server:
        heard = []

        async def speak(number):
            async with server.speaker(f"c{number}", f"call-{number}", language="fr") as stream:
                heard.append(await words_of(stream))

        models.gate.clear()
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(speak, number)
            while server.instance.shelf.find("fr").users < 10:
                await trio.sleep(0.01)
            async with server.speaker("ann") as ann:  # others are let in and heard meanwhile
                assert await words_of(ann) == "en1 en2"
            models.gate.set()
        assert heard == ["fr1 fr2"] * 10
        assert models.loads.count("fr") == 1


async def test_listeners_need_no_model(models):
    async with models.server() as server, server.raw("client_id=eve&session_id=call&speak=false&language=de"):
        assert models.loads == ["en"]


async def test_a_load_that_takes_longer_is_answered_503_and_goes_on(models):
    async with models.server(model_load_wait_s=0.1) as server:
        models.gate.clear()
        refused = await refusal(server, "client_id=bob&session_id=call&language=de")
        assert (refused.status, refused.code, refused.retry_after_s) == (503, "model_loading", 2)
        models.gate.set()
        with trio.fail_after(5):
            while server.instance.shelf.find("de").engine is None:
                await trio.sleep(0.01)
        async with server.speaker("bob", language="de") as bob:
            assert await words_of(bob) == "de1 de2"
        assert models.loads.count("de") == 1


async def test_who_came_for_a_load_when_the_drain_began_is_refused(models):
    async with models.server() as server:
        models.gate.clear()
        async with trio.open_nursery() as nursery:
            codes = []

            async def knock():
                try:
                    async with server.raw("client_id=bob&session_id=call&language=de"):
                        codes.append("in")
                except StreamRefusedError as refused:
                    codes.append(refused.code)

            nursery.start_soon(knock)
            while not server.instance.shelf.find("de").users:
                await trio.sleep(0.01)
            nursery.start_soon(server.instance.drain)
            await trio.sleep(0.05)
            models.gate.set()
        assert codes == ["draining"]


async def test_a_model_that_cannot_be_loaded_is_503_for_its_speakers_alone_until_it_is_mended(models):
    models.broken.add("de")
    async with models.server(stt_circuit_breaker_timeout=0.3) as server:
        query = "client_id=bob&session_id=call&language=de"
        for _ in range(2):
            refused = await refusal(server, query)
            assert (refused.status, refused.code) == (503, "recogniser_unavailable")
            assert "planted" not in refused.message
        async with httpx.AsyncClient(base_url=server.http) as client:
            answer = await client.get("/health")
            assert (answer.status_code, answer.json()["status"], answer.json()["ready"]) == (200, "degraded", True)
            details = answer.json()["details"]
            assert details["models"]["models"]["vosk-model-de"]["state"] == "failing"
            assert details["recogniser"]["breakers"]["vosk:vosk-model-de"] in ("open", "half_open")
            assert 'breaker_open{breaker="vosk:vosk-model-de"} 1.0' in (await client.get("/metrics")).text
        async with server.speaker("ann") as ann:
            assert await words_of(ann) == "en1 en2"
        models.broken.clear()
        with trio.fail_after(10):
            while server.instance.shelf.find("de").engine is None:
                await trio.sleep(0.02)
        async with server.speaker("bob", language="de") as bob:
            assert await words_of(bob) == "de1 de2"


async def test_a_failing_recogniser_of_one_language_refuses_the_speakers_of_that_one_alone(models):
    async with models.server() as server, server.speaker("ann", language="de"):
        server.instance.shelf.find("de").breaker.trip()
        assert (await refusal(server, "client_id=b&session_id=c&language=de")).code == "recogniser_unavailable"
        async with server.speaker("bob"), httpx.AsyncClient(base_url=server.http) as client:
            assert (await client.get("/health/simple")).status_code == 200
            server.instance.shelf.own.breaker.trip()
            assert (await client.get("/health/simple")).status_code == 503


async def test_with_no_memory_left_a_speaker_of_another_language_is_refused_until_one_has_gone(models):
    async with models.server(models_memory_mb=210) as server:
        async with server.speaker("ann", language="de"):
            refused = await refusal(server, "client_id=bob&session_id=call&language=fr")
            assert (refused.status, refused.code) == (503, "model_memory_full")
        await nothing_left(server)
        async with server.speaker("bob", language="fr") as bob:
            assert await words_of(bob) == "fr1 fr2"
        shelf = server.instance.shelf
        assert (shelf.evictions, shelf.find("de").engine) == (1, None)
        assert models.engines["de"].unloaded


async def test_recognisers_given_up_after_their_model_was_unloaded_go_back_to_their_own_engine(models):
    async with models.server(adaptation_memory_mb=0) as server:
        for language in ("de", "fr", "de"):
            async with server.speaker("ann", language=language) as ann:
                assert await words_of(ann) == f"{language}1 {language}2"
            await nothing_left(server)
            assert await server.instance.shelf.unload(language) is UnloadOutcome.UNLOADED
        with trio.fail_after(5):
            while any(engine.open_recognisers for engine in models.engines.values()):
                await trio.sleep(0.01)


async def test_models_that_pool_their_recognisers_take_as_many_speakers_as_there_is_memory_for(tmp_path):
    models = Models(tmp_path, "en", "de", limits={"de": 1})
    async with models.server() as server, server.speaker("ann", language="de") as ann:
        refused = await refusal(server, "client_id=bob&session_id=call&language=de")
        assert (refused.status, refused.code) == (503, "full")
        async with server.speaker("eve"):
            assert await words_of(ann) == "de1 de2"


@pytest.mark.parametrize("noticed", [True, False], ids=["parked", "not noticed yet"])
async def test_who_lost_the_connection_is_not_refused_for_the_recogniser_that_is_its_own(tmp_path, noticed):
    models = Models(tmp_path, "en", "de", limits={"de": 1})
    async with models.server(resume_window_s=5, resume_secret=SECRET) as server, speaker(server, "language=de") as ann:
        ready = await ann.until("ready")
        await ann.say(0, sound(0.5))
        await trio.sleep(0.1)
        if noticed:
            await cut(server)
            assert server.instance.admission.parked == 1
            refused = await refusal(server, "client_id=bob&session_id=call&language=de")
            assert (refused.status, refused.code) == (503, "full")
        async with speaker(server, "language=de&resume=true") as again:
            assert (await again.resume(ready["resume_token"], 0))["from_sample"] == 0
            await again.say(0, sound(1))
            await again.socket.send(json.dumps({"type": "finalize"}))
            assert (await again.until("transcripts", is_final=True))["text"] == "de1 de2"
            assert server.instance.shelf.find("de").users == 1
    await nothing_left(server)


async def test_who_comes_back_with_another_instances_stream_may_use_a_model_that_is_just_full(tmp_path):
    models = Models(tmp_path, "en", "de", limits={"de": 1})
    async with (
        models.server() as server,
        server.speaker("ann", language="de"),
        speaker(server, "language=de&resume=true", "bob"),
    ):
        refused = await refusal(server, "client_id=eve&session_id=call&language=de&framing=seq&resume=true")
        assert (refused.status, refused.code) == (503, "full")


async def test_a_parked_streams_model_makes_no_room_for_another_language(tmp_path):
    models = Models(tmp_path, "en", "de", "fr")
    async with models.server(resume_window_s=5, resume_secret=SECRET) as server:
        shelf = server.instance.shelf
        async with speaker(server, "language=de") as ann:
            ready = await ann.until("ready")
            await ann.say(0, sound(0.5))
            await trio.sleep(0.1)
            await cut(server)
        shelf._memory_mb = shelf.memory_mb + 1
        refused = await refusal(server, "client_id=bob&session_id=call&language=fr")
        assert (refused.status, refused.code, refused.retry_after_s) == (503, "model_memory_full", 2)
        async with speaker(server, "language=de&resume=true") as again:
            await again.resume(ready["resume_token"], 0)
            await again.say(0, sound(1))
            await again.socket.send(json.dumps({"type": "finalize"}))
            assert (await again.until("transcripts", is_final=True))["text"] == "de1 de2"
    assert models.loads == ["en", "de"]


async def test_a_speaker_goes_on_in_another_language_on_the_same_stream(models):
    async with models.server() as server, server.speaker("ann") as ann:
        await ann.send_audio(sound(1.05).tobytes())
        await ann.configure(language="de")
        await ann.send_audio(sound(1).tobytes())
        await ann.end()
        with trio.fail_after(10):
            events = [event async for event in ann]
        finals = [event for event in events if isinstance(event, Transcript) and event.is_final]
        assert [(final.text, final.language) for final in finals] == [("en1 en2", "en"), ("de1 de2", "de")]
        assert finals[0].end_sample == finals[1].start_sample == round(1.05 * 16000)
        assert finals[0].stream_id == finals[1].stream_id
        assert next(event for event in events if isinstance(event, Configured)).values["language"] == "de"
        assert events[-1] == Ack(round(2.05 * 16000))
    await nothing_left(server)
    assert [model.users for model in server.instance.shelf] == [0, 0, 0]


@pytest.mark.parametrize(
    ("wrong", "code", "says"),
    [
        ("vi", "language_unavailable", "trio-stt models install vi"),
        ("not a tag", "bad_value", "BCP-47"),
        ("fr", "language_unavailable", "no room"),
    ],
)
async def test_a_language_that_cannot_be_changed_to_is_said_to_be_so_and_nothing_changes(models, wrong, code, says):
    async with (
        models.server(models_memory_mb=210) as server,
        server.speaker("bob", language="de"),
        server.speaker("ann") as ann,
    ):
        await ann.configure(language=wrong, partials=False)
        await ann.send_audio(silence(0.2).tobytes() + sound(1).tobytes())
        await ann.end()
        with trio.fail_after(10):
            events = [event async for event in ann]
        (failure,) = [event for event in events if isinstance(event, Failure)]
        assert (failure.code, failure.extra["parameter"]) == (code, "language")
        assert says in failure.message
        captions = [event for event in events if isinstance(event, Transcript)]
        assert {caption.language for caption in captions} == {"en"}
        assert not captions[0].is_final
        assert not any(isinstance(event, Configured) for event in events)


async def test_a_speaker_who_vanishes_while_its_next_model_is_loaded_leaves_nothing_behind(models):
    async with models.server() as server:
        models.gate.clear()
        async with server.speaker("ann") as ann:
            await ann.send_audio(sound(1).tobytes())
            await ann.configure(language="de")
            assert len(await finals_of(ann, 1)) == 1
            assert server.instance.shelf.find("de").users == 1
        models.gate.set()
        await nothing_left(server)
        assert [model.users for model in server.instance.shelf] == [0, 0, 0]


async def test_a_speaker_who_vanishes_before_its_upgrade_is_answered_leaves_nothing_behind(models):
    async with models.server() as server:
        models.gate.clear()
        with trio.move_on_after(0.3):
            async with server.raw("client_id=bob&session_id=call&language=de"):
                pass
        models.gate.set()
        with trio.fail_after(5):
            while server.instance.shelf.find("de").engine is None or server.instance.shelf.find("de").users:
                await trio.sleep(0.01)
        await nothing_left(server)


async def test_models_wanted_from_the_start_are_there_before_anybody_speaks_them(models):
    models.broken.add("fr")
    async with models.server(models_preload=("de", "fr", "vi", "en")) as server:
        assert models.loads == ["en", "de", "fr"]
        assert server.instance.shelf.loaded == 2
        async with httpx.AsyncClient(base_url=server.http) as client:
            health = (await client.get("/health")).json()["details"]["models"]
        assert (health["status"], health["message"]) == ("degraded", "failing: vosk-model-fr")
        assert {name: model["state"] for name, model in health["models"].items()} == {
            "vosk-model": "loaded",
            "vosk-model-de": "loaded",
            "vosk-model-fr": "failing",
        }


async def test_models_are_seen_in_statistics_and_metrics(models):
    async with (
        models.server(models_memory_mb=210) as server,
        httpx.AsyncClient(base_url=server.http) as client,
    ):
        for language in ("de", "fr"):
            async with server.speaker("ann", language=language):
                info = (await client.get("/ws/stats")).json()["service_info"]["models"][f"vosk-model-{language}"]
                assert info == {"language": language, "state": "loaded", "users": 1, "memory_mb": 100}
            await nothing_left(server)
        metrics = (await client.get("/metrics")).text
        for line in (
            "trio_stt_models_loaded 2.0",
            "trio_stt_models_memory_mb 200.0",
            "trio_stt_model_loads_total 3.0",
            "trio_stt_model_evictions_total 1.0",
        ):
            assert line in metrics


async def test_operators_load_and_unload_what_nobody_uses(models):
    async with models.server() as server:
        shelf = server.instance.shelf
        assert await shelf.load("de") is LoadOutcome.LOADED
        async with server.speaker("ann", language="de") as ann:
            assert await words_of(ann) == "de1 de2"
            assert await shelf.unload("de") is UnloadOutcome.IN_USE
        await nothing_left(server)
        assert await shelf.unload("de") is UnloadOutcome.UNLOADED
        assert await shelf.unload("en") is UnloadOutcome.OWN
        async with server.speaker("ann", language="de") as ann:
            assert await words_of(ann) == "de1 de2"
        assert models.loads.count("de") == 2


async def test_a_vosk_server_client_shares_the_model_of_a_language(models):
    async with (
        models.server(vosk_server_models=("vosk-model-de",)) as server,
        server.speaker("ann", language="de"),
    ):
        socket = await connect(f"{server.ws}/vosk-server", timeout_s=5)
        try:
            await socket.send('{"config": {"model": "vosk-model-de"}}')
            await socket.send(sound(0.2, 8000).tobytes())
            assert json.loads(await socket.receive()) == {"partial": "w1"}
            assert server.instance.shelf.find("de").users == 2
        finally:
            await socket.aclose()
        assert models.loads == ["en", "de"]
        assert len(models.engines["de"].plain) == 1


async def test_an_operator_loads_and_unloads_models(models):
    headers = {"Authorization": f"Bearer {token(tenant='operators', admin=True)}"}
    models.broken.add("fr")
    async with (
        models.server(auth_keys=KEYS) as server,
        httpx.AsyncClient(base_url=f"{server.http}/admin/models/", headers=headers) as client,
    ):

        async def said(route: str) -> tuple[int, str]:
            answer = await client.post(route)
            body = answer.json()
            return answer.status_code, body["result"] if answer.is_success else body["error"]["code"]

        assert await said("de/load") == (200, "loaded")
        assert await said("de-AT/load") == (200, "already_loaded")
        async with server.speaker(language="de"):
            assert await said("de/unload") == (409, "model_in_use")
        assert await said("de/unload") == (200, "unloaded")
        assert await said("de/unload") == (200, "not_loaded")
        assert await said("en/unload") == (409, "own_language")
        assert await said("fr/load") == (503, "recogniser_unavailable")
        models.broken.clear()
        assert await said("fr/load") == (200, "loaded")
        for route in ("pt/load", "pt/unload"):
            assert await said(route) == (400, "language_unavailable")
        client.headers["Authorization"] = f"Bearer {token()}"
        assert await said("de/load") == (403, "not_an_admin")
        environment = {"SERVER_PORT": server.http.rpartition(":")[2], "ACCESS_TOKEN": headers["Authorization"][7:]}
        for command, result in (("load-model", "loaded"), ("unload-model", "unloaded")):
            shown = await trio.to_thread.run_sync(
                lambda command=command: CliRunner(env=environment).invoke(main, ["admin", command, "de"])
            )
            assert json.loads(shown.output)["result"] == result
