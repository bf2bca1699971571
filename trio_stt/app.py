"""The one place that builds the parts of an instance and hands them to each other."""

from __future__ import annotations

import itertools
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import attrs
import structlog
import trio
from quart_trio import QuartTrio

from trio_stt import __version__
from trio_stt.audio.detection import VoiceActivity
from trio_stt.audio.speech_gate import GateConfig, SpeechGate
from trio_stt.audio.vad import detectors
from trio_stt.dialects.events import StreamRequest, Transcript
from trio_stt.dialects.request import Limits, Refusal, parse_request, primary_subtag
from trio_stt.dialects.vosk_server import StreamConfig
from trio_stt.gateway import http
from trio_stt.gateway.addresses import Addresses
from trio_stt.gateway.admin import Controls, admin_routes
from trio_stt.gateway.admission import Admission, Readiness
from trio_stt.gateway.auth import Authenticator
from trio_stt.gateway.connection import OUR_FAULT, RESTARTING
from trio_stt.gateway.connections import Connections, LiveConnection
from trio_stt.gateway.door import Door, Visitor
from trio_stt.gateway.http_connection import Handler, Upgrade
from trio_stt.gateway.keys import check_access, keys_of
from trio_stt.gateway.model_refusals import failure_on_stream, refusal_of
from trio_stt.gateway.origins import Origins
from trio_stt.gateway.quotas import quotas_of
from trio_stt.gateway.resume_tokens import ResumeTokens, secret_of
from trio_stt.gateway.socket import Socket
from trio_stt.gateway.vosk_server import VoskServerConnection, VoskServerSurroundings, decodes_silence, request_of
from trio_stt.gateway.websocket import CallSurroundings, NativeConnection, StreamIds
from trio_stt.models.errors import ModelStoreError
from trio_stt.operations import allocator, memory
from trio_stt.operations.health import Health, PartHealth, Status, memory_health
from trio_stt.operations.metrics import Metrics
from trio_stt.recognition import calibration
from trio_stt.recognition.breaker import Breaker, breaker_name
from trio_stt.recognition.call_recorder import CallRecorder, RecordingEngine
from trio_stt.recognition.capacity import Capacity, CpuTimes
from trio_stt.recognition.core_share import CoreShare, read_share, threads_of
from trio_stt.recognition.decoders import CallUnderWay, Decoders, chunk_ms
from trio_stt.recognition.degradation import Degradation
from trio_stt.recognition.engine import SAMPLE_RATE, Engine, EngineError, PlainOptions, Recogniser
from trio_stt.recognition.lock_step import LockStepRecogniser
from trio_stt.recognition.model_health import models_as_they_stand, recogniser_health, shelf_health
from trio_stt.recognition.model_record import ModelIdentity, ModelRecord, ModelRecords, identify
from trio_stt.recognition.model_shelf import LoadOutcome, ModelShelf, NotLent
from trio_stt.recognition.model_trial import check_model
from trio_stt.recognition.resting import Resting
from trio_stt.recognition.shelved_model import Loan, ShelvedModel
from trio_stt.recognition.speaker import SpeakerRecogniser
from trio_stt.recognition.vosk_engine import VoskEngine, warm_up
from trio_stt.recognition.watchdog import wait_for_hang
from trio_stt.rooms.access import RoomAccess
from trio_stt.rooms.dispatch import Dispatcher
from trio_stt.rooms.livekit_tokens import LiveKitTokens
from trio_stt.rooms.passes import Passes
from trio_stt.rooms.redis_leases import RedisLeases
from trio_stt.rooms.routes import RoomParts, room_routes
from trio_stt.sessions.backlog import Backlog
from trio_stt.sessions.bus import Bus, InstanceRecord
from trio_stt.sessions.caption_sink import CaptionSink
from trio_stt.sessions.captioner import BEGINNING, Captioner, Origin
from trio_stt.sessions.catch_up import CatchUps
from trio_stt.sessions.gated_listener import GatedListener
from trio_stt.sessions.instances import Instances
from trio_stt.sessions.journal import Journal
from trio_stt.sessions.lock_step import Listener, PlainListener
from trio_stt.sessions.memory_bus import Memory, MemoryBus
from trio_stt.sessions.pace import BEAT_MS, next_beat
from trio_stt.sessions.publisher import CONFIRM_S, Publisher
from trio_stt.sessions.redis_bus import RedisBus
from trio_stt.sessions.session import Session, Sessions
from trio_stt.sessions.translate import TranslationDesk, translation_refusal
from trio_stt.settings import Settings
from trio_stt.translation.engine import TranslationEngine
from trio_stt.translation.engines import make_engines
from trio_stt.translation.translator import Translator
from trio_stt.translation.writing import write

LOOK_EVERY_S = 0.5
"""How often load is measured and the level of service decided."""

FINISHING_SHARE = 0.2
"""Share of the drain's time, after clients were told to go elsewhere, that is left for the last words of who stayed."""

LEAVING_SHARE = 0.6
"""Share of the drain's time that clients which can resume have to go elsewhere."""

LONGEST_SEND_OFF_S = 1.0
"""All clients are told within so long."""

CALLS_LOOK_EVERY_S = 0.02

TRANSLATION_BREAKER_CALLS = 6
"""Calls of a translation engine looked at; at half of them failing its breaker opens. Few: each may take seconds."""

RECORD_CALLS = "TRIO_STT_RECORD_CALLS"
"""A file that `trio-stt bench server` has the server write its recogniser calls to; not a setting for users."""


def load_vosk(settings: Settings) -> Engine:
    """The Vosk model that the settings name, loaded and probed. Blocks. Raises `ModelError` or `EngineError`."""
    records = ModelRecords(settings.records_folder)
    model = settings.model_path
    installed = model.resolve().parent == settings.models_dir.resolve()
    check_model(model, settings.language, records, installed=installed)
    engine = VoskEngine(model, recogniser_memory_mb=settings.recogniser_memory_mb, step_ms=settings.decode_step_ms)
    warm_up(engine)
    record_to = os.environ.get(RECORD_CALLS)
    return RecordingEngine(engine, CallRecorder(Path(record_to))) if record_to else engine


BUS_START_S = 2.0
"""The longest that a start waits for the result bus."""

LONGEST_GATHERING_MS = 300
"""Most audio for which a client of vosk-server that does not wait for its replies is made to wait for them."""


class Instance:
    """One server instance: its parts, its Quart app, and its life from starting to drained."""

    def __init__(
        self,
        settings: Settings,
        load_engine: Callable[[Settings], Engine] | None = None,
        translation_engines: Sequence[TranslationEngine] | None = None,
    ) -> None:
        """`load_engine` blocks while it loads and probes the model; default: Vosk, with the model the settings name.

        `translation_engines`: default: those that the settings and the installed models make. Reads key and quota
        files. Raises `AccessError` where AUTH_MODE does not fit the rest, or `QuotaFileError`.
        """
        self.settings = settings
        keys = keys_of(settings)
        check_access(settings, keys)
        self._asks_for_tokens = settings.auth_mode == "required"
        self._authenticator = Authenticator(keys, issuer=settings.auth_issuer, leeway_s=settings.auth_leeway_s)
        self._addresses = Addresses(
            trusted_proxies=settings.trusted_proxies, max_connections=settings.max_connections_per_address
        )
        self._door = Door(
            Origins(settings.allowed_origins, only_own_pages=not self._asks_for_tokens),
            self._addresses,
            self._authenticator if self._asks_for_tokens else None,
        )
        self.quotas = quotas_of(settings)
        self.drain_asked = trio.Event()
        """Set when an operator wants this instance to end as at SIGTERM."""
        self._log = structlog.get_logger().bind(instance=settings.instance)
        self.metrics = Metrics()
        self.health = Health()
        self.translator = self._make_translator(translation_engines)
        self.desk = TranslationDesk(
            self.translator,
            self.metrics,
            self._log,
            max_waiting=settings.translation_queue,
            partials=settings.translate_partials,
            takeover_s=2 * settings.translation_timeout_s + 1,  # two engines, one after the other, and the bus
        )
        self.bus = _make_bus(settings)
        self.journal = Journal(self.bus)
        self.sessions = Sessions(self.bus, self.desk if self.translator.engines else None, self.journal.unconfirmed_of)
        self.dispatcher = Dispatcher(
            settings.agent_url,
            RedisLeases(settings.redis_url) if settings.redis_url else None,
            Passes.of(settings),
        )
        """Sends LiveKit agents into rooms."""
        self.connections = Connections(on_close=self.metrics.count_close)
        self.capacity = Capacity(
            settings.decode_cores, settings.decode_cost or calibration.ASSUMED_COST, max_load=settings.max_load
        )
        self.decoders = Decoders(settings.decode_cores, self.capacity.spent)
        self._stream_numbers = itertools.count()
        self._catch_ups = CatchUps()
        self._plain: set[int] = set()  # numbers of the streams of which every frame is decoded
        self.shelf = ModelShelf(
            settings.models_dir,
            settings.model_path,
            primary_subtag(settings.language),
            memory_mb=settings.models_memory_mb,
            wait_s=settings.model_load_wait_s,
            load=self._load_model,
            make_breaker=partial(self._make_breaker, "vosk"),
            works=self._works,
            on_loaded=self._take_up_model,
            log=self._log,
        )
        """All speech models; `load` and `unload` are for operators."""
        self._share = CoreShare(settings.decode_cores, settings.decode_cores)
        self._follow_share()
        self.degradation = Degradation(settings.decode_chunk_ms)
        self.resting: Resting[SpeakerRecogniser] = Resting(settings.adaptation_memory_mb)
        # Pooled recognisers are large, and as many as may be: they are counted, and each speaker keeps its own.
        self._pooled: Resting[SpeakerRecogniser] = Resting(math.inf)
        self._to_close, self._closing = trio.open_memory_channel[tuple[Engine, Recogniser]](math.inf)
        self._to_calibrate, self._calibrating = trio.open_memory_channel[ShelvedModel](math.inf)
        self.admission = Admission(
            models=self.shelf,
            max_speakers=settings.max_concurrent_clients,
            max_listeners=settings.max_listeners,
            quotas=self.quotas,
            capacity=self.capacity,
            degradation=self.degradation,
            replaces=self.sessions.replaces,
            behind=lambda: self._behind() + self.instances.behind_elsewhere,
            gated=settings.vad_enabled,
        )
        working, missing = detectors(settings.vad_engine, settings.vad_device)
        for error in missing:
            self._log.warning("voice_detector_missing", error=str(error))
        self.voice = VoiceActivity(working, self._log)
        self._load_engine = load_engine or load_vosk
        self._model: dict[str, object] = {}
        self._gate_config = GateConfig(
            enabled=settings.vad_enabled,
            threshold=settings.vad_threshold,
            min_speech_ms=settings.vad_min_speech_duration_ms,
            hangover_ms=settings.vad_min_silence_duration_ms,
            pre_roll_ms=settings.vad_pre_roll_ms,
            post_roll_ms=settings.vad_post_roll_ms,
            max_utterance_s=settings.max_utterance_s,
        )
        self.instances = Instances(self.bus, self._describe_instance, alone=not settings.redis_url)
        self._limits = Limits(settings.max_stream_duration, settings.max_client_idle_time)
        parts = (settings, self.admission, self.connections, self.metrics, self.quotas)
        self._around = CallSurroundings(
            *parts,
            self.sessions,
            self.bus,
            self.journal,
            ResumeTokens(secret_of(settings), life_s=settings.resume_token_s),
            self._make_captioner,
            self._change_model,
            self._refuse_translation,
        )
        models = frozenset(settings.vosk_server_models)
        self._around_vosk_server = VoskServerSurroundings(*parts, models, self._open_listener)
        self._add_health()
        self._add_gauges()
        self.app = self._build_app()
        self.handlers: dict[str, Handler] = {"/ws/vosk": self._speak, "/vosk-server": self._speak_as_to_vosk_server}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Loads the models that are wanted from the start, says so through `task_status`, then keeps the parts alive.

        Until cancelled. Raises `ModelError` or `EngineError` if the model of the server's own language cannot be used.
        """
        engine = await self.shelf.load_own()
        if self.settings.written_captions:  # read now, so that no caption waits for it
            await trio.to_thread.run_sync(write, "", primary_subtag(self.settings.language))
        self._model = engine.description
        if engine.recogniser_limit is not None:
            self.admission.max_speakers = min(self.admission.max_speakers, engine.recogniser_limit)
            self.admission.parked_hold_places = True
        async with trio.open_nursery() as nursery:
            await nursery.start(self.shelf.run)
            nursery.start_soon(memory.keep_trimming)
            await self._start_bus(nursery)
            nursery.start_soon(self._close_recognisers)
            await self._preload()
            nursery.start_soon(self._keep_measuring)
            await nursery.start(self.desk.run)
            await nursery.start(self.dispatcher.run)
            nursery.start_soon(self._calibrate_models)
            self.admission.readiness = Readiness.READY
            task_status.started()

    async def _start_bus(self, nursery: trio.Nursery) -> None:
        """Those who come first shall find the bus, but a bus that is away does not keep them waiting for long."""
        for run in (self.bus.run, self.journal.run, self.sessions.run, self.instances.run):
            nursery.start_soon(run)
        with trio.move_on_after(BUS_START_S):
            await self.bus.wait_up(0)

    async def _preload(self) -> None:
        for language in self.settings.models_preload:
            outcome = await self.shelf.load(language)
            if outcome not in (LoadOutcome.LOADED, LoadOutcome.ALREADY_LOADED):
                advice = f"trio-stt models install {language}" if outcome is LoadOutcome.NOT_INSTALLED else ""
                self._log.error("model_not_preloaded", language=language, outcome=outcome.value, advice=advice)

    def handler(self, path: str) -> Handler | None:
        """Who serves a WebSocket at that path, with or without its last slash; None: nobody does."""
        return self.handlers.get(path.removesuffix("/"))

    def handler_of_vosk_server(self, path: str) -> Handler | None:
        """The same for `VOSK_SERVER_PORT`, where every path is vosk-server's."""
        return self.handlers.get("/vosk-server")

    async def drain(self) -> None:
        """Takes no new clients, ends all streams after their last final (1012), and returns when they are gone.

        Where there are other instances, clients that can resume are first told to go on there, and given time for it.
        """
        self.admission.readiness = Readiness.DRAINING
        leaving = [each for each in self.connections if each.resumable] if self.settings.redis_url else []
        for each in self.connections:
            if each not in leaving:
                each.stop(RESTARTING)
        if leaving:
            within_s = self.settings.drain_timeout_s * LEAVING_SHARE
            with trio.move_on_after(within_s):
                await self._send_away(leaving, within_s)
                await self.connections.wait_empty()
        self.connections.stop_all(RESTARTING)
        await self.connections.wait_empty()
        await self.journal.wait_empty(CONFIRM_S)

    async def _send_away(self, leaving: list[LiveConnection], within_s: float) -> None:
        """One after the other, so that they do not all come to the other instances at once."""
        began = trio.current_time()
        pause_s = min(LONGEST_SEND_OFF_S, within_s / 4) / len(leaving)
        for each in random.sample(leaving, len(leaving)):
            left_s = within_s - (trio.current_time() - began)
            each.send_away(round(1000 * left_s), "restarting")
            await trio.sleep(pause_s)

    async def wait_for_hang(self) -> CallUnderWay:
        """Returns a recogniser call that has hung. May be cancelled."""
        return await wait_for_hang(self.decoders, self.settings.decode_hang_s)

    async def leave(self, hung: CallUnderWay, within_s: float) -> None:
        """A call hangs: takes no new clients, ends its stream (1011), sends the others away and at last ends them too.

        Returns when all are gone, at most `within_s` later.
        """
        self._say_hung(hung)
        self.admission.readiness = Readiness.DRAINING
        self.connections.hang_up(hung.owner, OUR_FAULT)
        with trio.move_on_after(within_s):
            leave_s = within_s * (1 - FINISHING_SHARE)
            self.connections.send_all_away(round(leave_s * 1000), "restarting")
            with trio.move_on_after(leave_s):
                await self.connections.wait_empty()
            await self.drain()

    async def cut(self, within_s: float) -> list[CallUnderWay]:
        """Ends the streams that are left. Returns the calls that hang: begun before, not over `within_s` later."""
        self.connections.cut_all()
        began = time.monotonic()

        def old_calls() -> list[CallUnderWay]:
            return [call for call in self.decoders.under_way() if call.age_s >= time.monotonic() - began]

        with trio.move_on_after(within_s):
            await self.connections.wait_empty()
            while old_calls():  # noqa: ASYNC110  (it is threads that end them)
                await trio.sleep(CALLS_LOOK_EVERY_S)
        hung = old_calls()
        for call in hung:
            self._say_hung(call)
            self.connections.hang_up(call.owner, RESTARTING)
        return hung

    def _say_hung(self, call: CallUnderWay) -> None:
        self._log.error("decoder_hung", hung_stream_id=call.owner, seconds=round(call.age_s, 1))

    async def _keep_measuring(self) -> None:
        """Measures load and decides the level of service, until cancelled."""
        while True:
            self._follow_share()
            now, delay_s = trio.current_time(), self.decoders.statistics().delay_s
            self.capacity.look(now, CpuTimes(time.process_time(), time.thread_time()), delay_s=delay_s)
            before = self.degradation.level
            level = self.degradation.update(now, delay_s=delay_s, load=self.capacity.load)
            if level is not before:
                load = round(self.capacity.load, 3)
                self._log.info("service_level", name=level.name, delay_s=round(delay_s, 3), load=load)
            await trio.sleep(LOOK_EVERY_S)

    def _follow_share(self) -> None:
        """The fleet may have changed this instance's share of the cores. Reads a file of some bytes."""
        file = self.settings.decode_cores_file
        share = read_share(file) if file is not None else None
        if share is not None and share != self._share:
            self._log.info("cores_shared", cores=share.cores, lasting=share.lasting)
            self._share = share
            self.decoders.set_threads(threads_of(share.cores))
            self.capacity.set_cores(share.cores, share.lasting)

    def _take_up_model(self, model: ShelvedModel) -> None:
        """A model was loaded: what it costs is found out when there is time."""
        engine = model.engine
        if engine is None:
            return
        if engine.description.get("graph") == "dynamic":
            advice = f"decoding is several times slower; run 'trio-stt models compile {model.language}'"
            self._log.warning("graph_not_compiled", language=model.language, advice=advice)
            if model is not self.shelf.own:
                self.capacity.calibrate_language(model.language, calibration.ASSUMED_SHIPPED_COST)
        if not self.settings.decode_cost:
            self._to_calibrate.send_nowait(model)

    async def _calibrate_models(self) -> None:
        """Finds out what decoding by each loaded model costs, one at a time, until cancelled."""
        known: set[ShelvedModel] = set()
        while True:
            model = await self._calibrating.receive()
            if model not in known and model.engine is not None:
                with Loan(model) as loan:
                    known.add(model)
                    await self._calibrate(loan)

    async def _calibrate(self, loan: Loan) -> None:
        """Finds out what decoding costs here: from an earlier start, else by decoding canned speech for a second."""
        model = loan.model
        began = time.monotonic()
        records = ModelRecords(self.settings.records_folder)
        conditions = f"steps of {self.settings.decode_step_ms} ms, {allocator.in_use()} allocator"
        try:
            identity = await trio.to_thread.run_sync(identify, model.folder, conditions)
        except (OSError, ModelStoreError) as error:  # it was removed meanwhile
            self._log.warning("calibration_failed", model=model.name, error=str(error))
            return
        cost = remembered = records.read(identity).decode_cost
        if cost is None:
            measurement = calibration.Measurement(loan.engine, calibration.canned_speech())
            try:
                while await self.decoders.run(measurement.step):
                    pass
            except EngineError as error:
                self._log.warning("calibration_failed", model=model.name, error=str(error))
                return
            cost = measurement.decode_cost
            self._remember(identity, ModelRecord(works=True, decode_cost=cost), records)
        if model is self.shelf.own:
            self.capacity.calibrate(cost)
        else:
            self.capacity.calibrate_language(model.language, cost)
        self._log.info(
            "calibrated",
            language=model.language,
            decode_cost=round(cost, 4),
            speakers=self.capacity.streams_at(cost),
            remembered=remembered is not None,
            seconds=round(time.monotonic() - began, 3),
        )

    def _remember(self, identity: ModelIdentity, record: ModelRecord, records: ModelRecords) -> None:
        try:
            records.write(identity, record)
        except OSError as error:
            self._log.warning("model_record_not_written", error=str(error))

    async def _close_recognisers(self) -> None:
        """Frees, off everybody's way, the recognisers that were given up to save memory. Runs until cancelled."""
        while True:
            held = [await self._closing.receive()]
            # The last reference goes in the thread, because freeing a recogniser takes time.
            try:
                await self.decoders.run(lambda held=held: _close(*held.pop()))  # type: ignore[misc]
            except EngineError as error:
                self._log.warning("recogniser_close_failed", error=str(error))

    def _make_breaker(self, engine: str, model: str) -> Breaker:
        name = breaker_name(engine, model)
        return Breaker(
            name,
            min_calls=self.settings.stt_circuit_breaker_min_calls,
            wait_s=self.settings.stt_circuit_breaker_timeout,
            on_failure=self.metrics.decode_failures.inc,
            on_change=lambda state: self._log.warning("breaker", name=name, state=state.value),
        )

    def _make_translator(self, engines: Sequence[TranslationEngine] | None) -> Translator:
        return Translator(
            make_engines(self.settings, self._log) if engines is None else engines,
            self._make_translation_breaker,
            timeout_s=self.settings.translation_timeout_s,
            threads=self.settings.translation_threads,
            cache_size=self.settings.translation_cache,
            on_cache_hit=self.metrics.translation_cache_hits.inc,
            log=self._log,
        )

    def _make_translation_breaker(self, name: str) -> Breaker:
        return Breaker(
            name,
            min_calls=TRANSLATION_BREAKER_CALLS,
            wait_s=self.settings.stt_circuit_breaker_timeout,
            on_failure=self.metrics.translation_failures.inc,
            on_change=lambda state: self._log.warning("breaker", name=name, state=state.value),
        )

    def _refuse_translation(self, request: StreamRequest) -> Refusal | None:
        return translation_refusal(request, self.translator)

    @property
    def breakers(self) -> dict[str, Breaker]:
        """The breakers of all known models, by language."""
        return {model.language: model.breaker for model in self.shelf}

    def _load_model(self, model: ShelvedModel) -> Engine:
        """Blocks. Raises `ModelError` or `EngineError`."""
        changes = {"vosk_model_path": model.folder, "language": model.language}
        return self._load_engine(attrs.evolve(self.settings, **changes))  # type: ignore[misc]

    async def _works(self, engine: Engine) -> bool:
        """Whether a loaded model works on canned audio."""
        try:
            await self.decoders.run(lambda: warm_up(engine))
        except EngineError as error:
            self._log.warning("breaker_probe_failed", error=str(error))
            return False
        return True

    async def _change_model(
        self, request: StreamRequest, stream_id: str, log: structlog.stdlib.BoundLogger
    ) -> SpeakerRecogniser | Refusal:
        """The recogniser of a stream whose speaker goes on in `request.language`."""
        lent = await self.shelf.lend(primary_subtag(request.language))
        if isinstance(lent, NotLent):
            return failure_on_stream(request.language, lent)
        self.capacity.change_language(stream_id, primary_subtag(request.language))
        return self._speaker_recogniser(lent, stream_id, log, tenant=request.tenant)

    def _make_captioner(
        self,
        request: StreamRequest,
        ids: StreamIds,
        session: Session,
        publisher: Publisher,
        backlog: Backlog,
        model: Loan,
        origin: Origin,
        log: structlog.stdlib.BoundLogger,
    ) -> Captioner:
        sink = _CaptionExit(publisher, self.metrics, backlog, written=self.settings.written_captions)
        return self._captioner(request, ids, sink, lambda: session.wants_partials, backlog, model, log, origin)

    def _captioner(
        self,
        request: StreamRequest,
        ids: StreamIds,
        sink: CaptionSink,
        wants_partials: Callable[[], bool],
        backlog: Backlog,
        model: Loan,
        log: structlog.stdlib.BoundLogger,
        origin: Origin = BEGINNING,
    ) -> Captioner:
        return Captioner(
            request,
            ids.stream,
            origin=origin,
            gate=SpeechGate(self._gate_config, goes_on=origin.resumes),
            voice=self.voice.open() if self.settings.vad_enabled else None,
            recogniser=self._speaker_recogniser(model, ids.connection, log, tenant=request.tenant),
            sink=sink,
            wants_partials=wants_partials,
            on_decoded=lambda samples: self.metrics.speech_seconds.inc(samples / SAMPLE_RATE),
            lag_ms=lambda: _lag_ms(backlog),
            catch_ups=self._catch_ups,
            chunk_ms=self._chunk_ms,
            partial_every_ms=lambda: self.degradation.level.partial_every_ms,
            number=next(self._stream_numbers),
            log=log,
        )

    def _speaker_recogniser(
        self, model: Loan, stream_id: str, log: structlog.stdlib.BoundLogger, *, tenant: str
    ) -> SpeakerRecogniser:
        """Closes the loan when it is closed."""
        engine = model.engine
        return SpeakerRecogniser(
            engine,
            self.decoders,
            model.breaker,
            self.resting if engine.recogniser_limit is None else self._pooled,
            log,
            give_up=lambda recogniser: self._to_close.send_nowait((engine, recogniser)),
            stream_id=stream_id,
            tenant=tenant,
            on_close=model.close,
        )

    async def _open_listener(
        self,
        config: StreamConfig,
        request: StreamRequest,
        stream_id: str,
        backlog: Backlog,
        log: structlog.stdlib.BoundLogger,
    ) -> Listener:
        """What hears a client of vosk-server. Raises `ModelError` if a model that it needs cannot be loaded."""
        with ExitStack() as held:
            model = held.enter_context(await self.shelf.lend_named(config.model))
            as_it_comes = bool(config.model or config.phrase_list or config.max_alternatives)
            if self.settings.vosk_server_gate and not as_it_comes:
                request = attrs.evolve(request, sample_rate=config.sample_rate)
                ids = StreamIds(stream_id, stream_id)
                listener: Listener = GatedListener(
                    lambda sink: self._captioner(request, ids, sink, lambda: True, backlog, model, log),
                    words=config.words,
                )
            else:
                if config.phrase_list:
                    await self.shelf.load_phrases(model)
                listener = self._plain_listener(config, model, stream_id, tenant=request.tenant)
            held.pop_all()
            return listener

    def _plain_listener(self, config: StreamConfig, model: Loan, stream_id: str, *, tenant: str) -> PlainListener:
        """Closes the loan when it is closed."""
        number = next(self._stream_numbers)
        self._plain.add(number)

        def close() -> None:
            self._plain.discard(number)
            model.close()

        return PlainListener(
            LockStepRecogniser(
                model.engine,
                PlainOptions(config.sample_rate, config.words, config.max_alternatives, config.phrase_list),
                self.decoders,
                # What one client's phrases provoke must not turn others away.
                None if config.phrase_list else model.breaker,
                on_decoded=self.metrics.speech_seconds.inc,
                stream_id=stream_id,
                tenant=tenant,
            ),
            next_beat=lambda: self._next_plain_beat(number),
            on_close=close,
        )

    def _next_plain_beat(self, number: int) -> float:
        gathered_ms = min(self._chunk_ms(), LONGEST_GATHERING_MS)
        return next_beat(trio.current_time(), gathered_ms, number) if gathered_ms > BEAT_MS else -math.inf

    def _chunk_ms(self) -> int:
        speaking = self.resting.speaking + self._pooled.speaking + len(self._plain)
        least_ms = chunk_ms(self.settings.decode_chunk_ms, speaking, threads_of(self._share.cores))
        return max(least_ms, self.degradation.level.chunk_ms)

    def _build_app(self) -> QuartTrio:
        app = QuartTrio("trio_stt")
        app.url_map.strict_slashes = False
        http.add_routes(
            app,
            http.Surroundings(
                instance=self.settings.instance,
                health=self.health,
                admission=self.admission,
                connections=self.connections,
                metrics=self.metrics,
                breakers=lambda: [*(model.breaker for model in self.shelf.in_service), *self.translator.breakers],
                decoders=self.decoders,
                capacity=self.capacity,
                degradation=self.degradation,
                describe_service=self._describe,
                fleet=self.instances.figures,
                authenticator=self._authenticator,
                asks_for_tokens=self._asks_for_tokens,
            ),
        )
        app.register_blueprint(
            admin_routes(
                Controls(
                    self._authenticator,
                    self._addresses,
                    self.connections,
                    self.sessions,
                    self.shelf,
                    lambda: {
                        breaker.name: breaker
                        for breaker in (*(model.breaker for model in self.shelf), *self.translator.breakers)
                    },
                    self.drain_asked.set,
                )
            )
        )
        livekit = LiveKitTokens.of(self.settings)
        parts = RoomParts(
            RoomAccess(self._authenticator, livekit),
            self.dispatcher,
            livekit if self.settings.agent_auto_join else None,
        )
        app.register_blueprint(room_routes(parts))
        return app

    async def _speak(self, upgrade: Upgrade, socket: Socket) -> Refusal | None:
        visitor = self._door.look(upgrade.peer, upgrade.request.headers)
        if isinstance(visitor, Refusal):
            return visitor
        request = parse_request(upgrade.query, self._limits)
        if isinstance(request, Refusal):
            return request
        request = attrs.evolve(request, tenant=visitor.grant.tenant)
        refusal = visitor.grant.refusal(request.client_id, request.session_id)
        refusal = refusal or self._refuse_translation(request) or self.admission.check(request)
        if refusal is None and request.speak:
            return await self._let_speak(request, socket, visitor)
        if refusal is None:
            with self._addresses.place(visitor.address):
                await NativeConnection(request, socket, self._around, expires_at=visitor.grant.expires_at).run()
        return refusal

    async def _let_speak(self, request: StreamRequest, socket: Socket, visitor: Visitor) -> Refusal | None:
        lent = await self.shelf.lend(primary_subtag(request.language), partial(self.admission.most_users, request))
        if isinstance(lent, NotLent):
            return refusal_of(request.language, lent)
        with lent:
            refusal = self.admission.check(request)  # again: others may have come while this one waited for its model
            if refusal is None:
                expires_at = visitor.grant.expires_at
                with ExitStack() as held:
                    held.enter_context(self._addresses.place(visitor.address))
                    await NativeConnection(
                        request, socket, self._around, lent, expires_at=expires_at, on_parked=held.close
                    ).run()
            return refusal

    async def _speak_as_to_vosk_server(self, upgrade: Upgrade, socket: Socket) -> Refusal | None:
        visitor = self._door.look(upgrade.peer, upgrade.request.headers)
        if isinstance(visitor, Refusal):
            return visitor
        request = request_of(self.settings, visitor.grant)
        if isinstance(request, Refusal):
            return request
        refusal = self.admission.check(request, continuous=decodes_silence(self.settings))
        if refusal is None:
            around, expires_at = self._around_vosk_server, visitor.grant.expires_at
            with self._addresses.place(visitor.address):
                await VoskServerConnection(request, socket, around, expires_at=expires_at).run()
        return refusal

    def _describe(self, tenant: str | None) -> dict[str, object]:
        """The part `service_info` of ``/ws/stats``; clients and calls are one tenant's, or all (None)."""
        clients = self.connections.of(tenant)
        return {
            "name": "trio-stt",
            "version": __version__,
            "instance": self.settings.instance,
            "uptime_seconds": round(self.health.uptime_s, 3),
            "readiness": self.admission.readiness.value,
            "language": self.settings.language,
            "model": self._model,
            "models": models_as_they_stand(self.shelf),
            "allocator": allocator.in_use(),
            "voice_activity": self.voice.active,
            "sessions": sum(tenant in (None, session.tenant) for session in self.sessions),
            "speakers": sum(client.request.speak and not client.parked for client in clients),
            "parked": sum(client.parked for client in clients),
            "listeners": sum(not client.request.speak for client in clients),
        }

    def _describe_instance(self) -> InstanceRecord:
        return InstanceRecord(
            name=self.settings.instance,
            version=__version__,
            readiness=self.admission.readiness.value,
            ready=self.admission.ready,
            streams=self.admission.speakers,
            limit=self.admission.speakers_limit,
            level=self.degradation.level.name,
            parked=self.admission.parked,
            behind=self._behind(),
            memory_mb=memory.resident_mb(),
        )

    def _behind(self) -> int:
        return self._catch_ups.behind(trio.current_time())

    def _add_health(self) -> None:
        self.health.add("model", self._model_health)
        self.health.add("models", lambda: shelf_health(self.shelf, self.settings.models_memory_mb))
        self.health.add("recogniser", lambda: recogniser_health(self.shelf))
        self.health.add("decoders", self._decoder_health)
        self.health.add("bus", self._bus_health)
        self.health.add("fleet", self.instances.health)
        self.health.add("voice_activity", self._voice_health)
        self.health.add("translation", self._translation_health)
        thresholds = self.settings.health_memory_degraded, self.settings.health_memory_unhealthy
        self.health.add("memory", partial(memory_health, *thresholds))

    def _model_health(self) -> PartHealth:
        if self.shelf.own.engine is None:
            return PartHealth(Status.UNHEALTHY, "being loaded")
        if self._model.get("graph") == "dynamic":
            return PartHealth(
                Status.DEGRADED, "the graph is not compiled: decoding is several times slower", self._model
            )
        return PartHealth(Status.HEALTHY, "loaded", self._model)

    def _decoder_health(self) -> PartHealth:
        seen = self.decoders.statistics()
        level = self.degradation.level
        figures: dict[str, object] = {
            "threads": seen.threads,
            "busy": seen.busy,
            "waiting": seen.waiting,
            "delay_seconds": round(seen.delay_s, 3),
            "level": level.name,
        }
        if seen.oldest_call_s > self.settings.decode_hang_s:
            return PartHealth(Status.UNHEALTHY, f"a decoding call has hung for {seen.oldest_call_s:.0f} s", figures)
        if level.number:
            return PartHealth(Status.DEGRADED, f"busy: {level.name.replace('_', ' ')}", figures)
        return PartHealth(Status.HEALTHY, "working", figures)

    def _bus_health(self) -> PartHealth:
        if not self.settings.redis_url:
            return PartHealth(Status.HEALTHY, "none: this instance serves its calls alone")
        seen = self.bus.statistics()
        figures: dict[str, object] = {
            "up": seen.up,
            "delay_ms": None if math.isnan(seen.delay_s) else round(seen.delay_s * 1000, 3),
            "reconnects": max(0, seen.connected - 1),
            "calls": seen.following,
            "unconfirmed": self.journal.unconfirmed,
            "given_up": self.journal.given_up,
        }
        if not seen.up:
            return PartHealth(Status.DEGRADED, "away: captions reach the clients of this instance only", figures)
        if self.journal.unconfirmed:
            return PartHealth(Status.HEALTHY, "working; writing what it missed", figures)
        return PartHealth(Status.HEALTHY, "working", figures)

    def _voice_health(self) -> PartHealth:
        if not self.settings.vad_enabled:
            return PartHealth(Status.HEALTHY, "off: everything is decoded")
        degraded = self.voice.degraded
        status = Status.DEGRADED if degraded else Status.HEALTHY
        return PartHealth(status, f"{self.voice.active} decides what is speech", {"detector": self.voice.active})

    def _translation_health(self) -> PartHealth:
        if not self.translator.engines:
            return PartHealth(Status.HEALTHY, "off: nothing is translated")
        breakers = self.translator.breakers
        pairs = {f"{source}-{target}" for engine in self.translator.engines for source, target in engine.pairs or ()}
        figures: dict[str, object] = {
            "breakers": {breaker.name: breaker.state.value for breaker in breakers},
            "pairs": sorted(pairs),
            "waiting": self.desk.waiting,
        }
        if all(breaker.admits for breaker in breakers):
            return PartHealth(Status.HEALTHY, "working", figures)
        failing = ", ".join(breaker.name for breaker in breakers if not breaker.admits)
        return PartHealth(Status.DEGRADED, f"failing: {failing}; captions go on", figures)

    def _add_gauges(self) -> None:
        gauge = self.metrics.gauge
        gauge("ready", "1 if new speakers are let in", lambda: float(self.admission.ready))
        gauge("speakers", "Speaking streams", lambda: self.admission.speakers)
        gauge("parked", "Streams whose clients are away and may come back", lambda: self.admission.parked)
        gauge("behind", "Streams that were resumed lately and are behind", self._behind)
        gauge("speakers_limit", "Speaking streams that are let in", lambda: self.admission.speakers_limit)
        gauge("listeners", "Listening clients", lambda: self.admission.listeners)
        gauge("sessions", "Calls with at least one client", lambda: len(self.sessions))
        gauge("decoder_threads_busy", "Threads that decode now", lambda: self.decoders.statistics().busy)
        gauge(
            "decoder_calls_waiting",
            "Recogniser calls that wait for a thread",
            lambda: self.decoders.statistics().waiting,
        )
        gauge("recogniser_memory_mb", "What recognisers take, by estimate", self._recogniser_memory_mb)
        gauge("models_loaded", "Speech models that are loaded", lambda: self.shelf.loaded)
        gauge("models_memory_mb", "What the loaded models take, by estimate", lambda: self.shelf.memory_mb)
        self.metrics.total("model_loads", "Speech models that were loaded", lambda: self.shelf.loads)
        self.metrics.total(
            "model_evictions", "Speech models that were unloaded for others", lambda: self.shelf.evictions
        )
        gauge("decoder_delay_seconds", "How late calls begin", lambda: self.decoders.statistics().delay_s)
        gauge("load", "Used share of the capacity", lambda: self.capacity.load)
        gauge("bus_up", "1 while the result bus works", lambda: float(self.bus.up))
        gauge("bus_delay_seconds", "Of a message to itself over the bus", lambda: self.bus.statistics().delay_s)
        gauge("bus_reconnects", "How often the bus came back", lambda: max(0, self.bus.statistics().connected - 1))
        gauge("bus_unconfirmed", "Finals and translations that wait for the bus", lambda: self.journal.unconfirmed)
        gauge("bus_given_up", "Of these, dropped because too many waited", lambda: self.journal.given_up)
        gauge("service_level", "0 full, 1 fewer partials, 2 larger chunks, 3 refuse new", self._level_number)
        self.metrics.gauges(
            "breaker_open",
            "1 while the breaker of an engine with a model is not closed",
            "breaker",
            lambda: {
                each.name: float(not each.admits)
                for each in (*(model.breaker for model in self.shelf.in_service), *self.translator.breakers)
            },
        )
        self.metrics.total(
            "gate_cpu_seconds", "Processor time that finding speech in the sound took", lambda: self.voice.cpu_s
        )
        gauge("translations_waiting", "Captions that wait to be translated", lambda: self.desk.waiting)
        gauge(
            "voice_activity_degraded",
            "1 while the preferred detector is not in use",
            lambda: float(self.voice.degraded),
        )

    def _recogniser_memory_mb(self) -> float:
        return self.resting.memory_mb + self._pooled.memory_mb

    def _level_number(self) -> float:
        return self.degradation.level.number


def _close(engine: Engine, recogniser: Recogniser) -> None:
    engine.close(recogniser)


def _make_bus(settings: Settings) -> Bus:
    if settings.redis_url:
        return RedisBus(settings.redis_url, ttl_s=settings.bus_ttl_s)
    return MemoryBus(Memory(ttl_s=settings.bus_ttl_s))


class _CaptionExit(CaptionSink):
    """Counts captions on their way, and gives finals the written form where that is wanted."""

    def __init__(self, sink: CaptionSink, metrics: Metrics, backlog: Backlog, *, written: bool) -> None:
        self._sink = sink
        self._metrics = metrics
        self._backlog = backlog
        self._written = written

    async def publish(self, caption: Transcript) -> None:
        """Counts it and passes it on."""
        await self._sink.publish(self._seen(caption))

    def publish_now(self, caption: Transcript) -> None:
        """The same at once."""
        self._sink.publish_now(self._seen(caption))

    def _seen(self, caption: Transcript) -> Transcript:
        self._metrics.captions.labels("final" if caption.is_final else "partial").inc()
        self._metrics.lag.observe(_lag_ms(self._backlog) / 1000)
        if not (self._written and caption.is_final):
            return caption
        return attrs.evolve(caption, text=write(caption.text, primary_subtag(caption.language)))


def _lag_ms(backlog: Backlog) -> int:
    """How long the oldest audio in `backlog` has waited."""
    oldest = backlog.oldest_arrival
    return 0 if oldest is None else round((trio.current_time() - oldest) * 1000)
