"""The one place that builds the parts of an instance and hands them to each other."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable
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
from trio_stt.gateway.admission import Admission, Readiness
from trio_stt.gateway.connection import OUR_FAULT, RESTARTING
from trio_stt.gateway.connections import Connections
from trio_stt.gateway.http_connection import Handler, Upgrade
from trio_stt.gateway.socket import Socket
from trio_stt.gateway.vosk_server import VoskServerConnection, VoskServerSurroundings, decodes_silence, request_of
from trio_stt.gateway.websocket import CallSurroundings, NativeConnection
from trio_stt.operations import memory
from trio_stt.operations.health import Health, PartHealth, Status, memory_health
from trio_stt.operations.metrics import Metrics
from trio_stt.recognition import calibration
from trio_stt.recognition.breaker import Breaker, BreakerState, breaker_name
from trio_stt.recognition.call_recorder import CallRecorder, RecordingEngine
from trio_stt.recognition.capacity import Capacity, CpuTimes
from trio_stt.recognition.decoders import CallUnderWay, Decoders, chunk_ms
from trio_stt.recognition.degradation import Degradation
from trio_stt.recognition.engine import SAMPLE_RATE, Engine, EngineError, PlainOptions, Recogniser
from trio_stt.recognition.lock_step import LockStepRecogniser
from trio_stt.recognition.model_choice import ModelChoice
from trio_stt.recognition.model_record import ModelIdentity, ModelRecord, ModelRecords, identify
from trio_stt.recognition.model_trial import check_model
from trio_stt.recognition.resting import Resting
from trio_stt.recognition.speaker import SpeakerRecogniser
from trio_stt.recognition.vosk_engine import VoskEngine, warm_up
from trio_stt.recognition.watchdog import wait_for_hang
from trio_stt.sessions.backlog import Backlog
from trio_stt.sessions.bus import Bus
from trio_stt.sessions.caption_sink import CaptionSink
from trio_stt.sessions.captioner import Captioner
from trio_stt.sessions.gated_listener import GatedListener
from trio_stt.sessions.journal import Journal
from trio_stt.sessions.lock_step import Listener, PlainListener
from trio_stt.sessions.memory_bus import Memory, MemoryBus
from trio_stt.sessions.pace import BEAT_MS, next_beat
from trio_stt.sessions.publisher import CONFIRM_S, Publisher
from trio_stt.sessions.redis_bus import RedisBus
from trio_stt.sessions.session import Session, Sessions
from trio_stt.settings import Settings

LOOK_EVERY_S = 0.5
"""How often load is measured and the level of service decided."""

FINISHING_SHARE = 0.2
"""Share of the drain's time, after clients were told to go elsewhere, that is left for the last words of who stayed."""

CALLS_LOOK_EVERY_S = 0.02

RECORD_CALLS = "TRIO_STT_RECORD_CALLS"
"""A file that `trio-stt bench server` has the server write its recogniser calls to; not a setting for users."""


def load_vosk(settings: Settings) -> Engine:
    """The Vosk model that the settings name, loaded and probed. Blocks. Raises `ModelError` or `EngineError`."""
    records = ModelRecords(settings.records_folder)
    check_model(settings.model_path, settings.language, records)
    engine = VoskEngine(settings.model_path, recogniser_memory_mb=settings.recogniser_memory_mb)
    warm_up(engine)
    record_to = os.environ.get(RECORD_CALLS)
    return RecordingEngine(engine, CallRecorder(Path(record_to))) if record_to else engine


BUS_START_S = 2.0
"""The longest that a start waits for the result bus."""

LONGEST_GATHERING_MS = 300
"""Most audio for which a client of vosk-server that does not wait for its replies is made to wait for them."""


class Instance:
    """One server instance: its parts, its Quart app, and its life from starting to drained."""

    def __init__(self, settings: Settings, load_engine: Callable[[Settings], Engine] | None = None) -> None:
        """`load_engine` blocks while it loads and probes the model; default: Vosk, with the model the settings name."""
        self.settings = settings
        self._log = structlog.get_logger().bind(instance=settings.instance)
        self.metrics = Metrics()
        self.health = Health()
        self.bus = _make_bus(settings)
        self.sessions = Sessions(self.bus)
        self.journal = Journal(self.bus)
        self.connections = Connections(on_close=self.metrics.count_close)
        self.decoders = Decoders(settings.decode_cores, lambda owner, cpu_s: self.capacity.spent(owner, cpu_s))
        self._stream_numbers = itertools.count()
        self._plain: set[int] = set()  # numbers of the streams of which every frame is decoded
        self.breakers = {primary_subtag(settings.language): self._make_breaker("vosk", settings.model_path.name)}
        """By language (primary subtag): one for each engine and model."""
        self.capacity = Capacity(
            settings.decode_cores, settings.decode_cost or calibration.ASSUMED_COST, max_load=settings.max_load
        )
        self.degradation = Degradation(settings.decode_chunk_ms)
        self.resting: Resting[SpeakerRecogniser] = Resting(settings.adaptation_memory_mb)
        self._to_close, self._closing = trio.open_memory_channel[Recogniser](math.inf)
        self.admission = Admission(
            breakers=self.breakers,
            max_speakers=settings.max_concurrent_clients,
            max_listeners=settings.max_listeners,
            session_max_clients=settings.session_max_clients,
            capacity=self.capacity,
            degradation=self.degradation,
            replaces=self.sessions.replaces,
            gated=settings.vad_enabled,
        )
        working, missing = detectors(settings.vad_engine, settings.vad_device)
        for error in missing:
            self._log.warning("voice_detector_missing", error=str(error))
        self.voice = VoiceActivity(working, self._log)
        self._load_engine = load_engine or load_vosk
        self._engine: Engine | None = None
        self._model: dict[str, object] = {}
        self._model_choice = ModelChoice(self._load_chosen_model)
        self._gate_config = GateConfig(
            enabled=settings.vad_enabled,
            threshold=settings.vad_threshold,
            min_speech_ms=settings.vad_min_speech_duration_ms,
            hangover_ms=settings.vad_min_silence_duration_ms,
            pre_roll_ms=settings.vad_pre_roll_ms,
            post_roll_ms=settings.vad_post_roll_ms,
            max_utterance_s=settings.max_utterance_s,
        )
        self._limits = Limits(settings.max_stream_duration, settings.max_client_idle_time)
        parts = (settings, self.admission, self.connections, self.metrics)
        self._around = CallSurroundings(*parts, self.sessions, self.journal, self._make_captioner)
        models = frozenset(settings.vosk_server_models)
        self._around_vosk_server = VoskServerSurroundings(*parts, models, self._open_listener)
        self._add_health()
        self._add_gauges()
        self.app = self._build_app()
        self.handlers: dict[str, Handler] = {"/ws/vosk": self._speak, "/vosk-server": self._speak_as_to_vosk_server}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Loads and warms the model, says so through `task_status`, then keeps the parts alive until cancelled.

        Raises `ModelError` or `EngineError` if the model cannot be used.
        """
        began = time.monotonic()
        engine = await trio.to_thread.run_sync(self._load_engine, self.settings, abandon_on_cancel=False)
        self._model = engine.description
        self._engine = engine
        if engine.recogniser_limit is not None:
            # Pooled recognisers are large, and as many as may be: they are counted, and each speaker keeps its own.
            self.admission.max_speakers = min(self.admission.max_speakers, engine.recogniser_limit)
            self.resting = Resting(math.inf)
        self._log.info("model_loaded", seconds=round(time.monotonic() - began, 3), **self._model)
        if self._model.get("graph") == "dynamic":
            self._log.warning(
                "graph_not_compiled",
                advice=f"decoding is several times slower; run 'trio-stt models compile {self.settings.language}'",
            )
        async with trio.open_nursery() as nursery:
            for breaker in self.breakers.values():
                nursery.start_soon(breaker.keep_probing, self._probe)
            nursery.start_soon(memory.keep_trimming)
            await self._start_bus(nursery)
            nursery.start_soon(self._close_recognisers, engine)
            nursery.start_soon(self._keep_measuring)
            if not self.settings.decode_cost:
                nursery.start_soon(self._calibrate, engine)
            self.admission.readiness = Readiness.READY
            task_status.started()

    async def _start_bus(self, nursery: trio.Nursery) -> None:
        """Those who come first shall find the bus, but a bus that is away does not keep them waiting for long."""
        for run in (self.bus.run, self.journal.run, self.sessions.run):
            nursery.start_soon(run)
        with trio.move_on_after(BUS_START_S):
            await self.bus.wait_up(0)

    def handler(self, path: str) -> Handler | None:
        """Who serves a WebSocket at that path, with or without its last slash; None: nobody does."""
        return self.handlers.get(path.removesuffix("/"))

    def handler_of_vosk_server(self, path: str) -> Handler | None:
        """The same for `VOSK_SERVER_PORT`, where every path is vosk-server's."""
        return self.handlers.get("/vosk-server")

    async def drain(self) -> None:
        """Takes no new clients, ends all streams after their last final (1012), and returns when they are gone."""
        self.admission.readiness = Readiness.DRAINING
        self.connections.stop_all(RESTARTING)
        await self.connections.wait_empty()
        await self.journal.wait_empty(CONFIRM_S)

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
            now, delay_s = trio.current_time(), self.decoders.statistics().delay_s
            self.capacity.look(now, CpuTimes(time.process_time(), time.thread_time()), delay_s=delay_s)
            before = self.degradation.level
            level = self.degradation.update(now, delay_s=delay_s, load=self.capacity.load)
            if level is not before:
                load = round(self.capacity.load, 3)
                self._log.info("service_level", name=level.name, delay_s=round(delay_s, 3), load=load)
            await trio.sleep(LOOK_EVERY_S)

    async def _calibrate(self, engine: Engine) -> None:
        """Finds out what decoding costs here: from the last start, else by decoding canned speech for a second."""
        began = time.monotonic()
        records = ModelRecords(self.settings.records_folder)
        identity = await trio.to_thread.run_sync(identify, self.settings.model_path)
        cost = remembered = records.read(identity).decode_cost
        if cost is None:
            measurement = calibration.Measurement(engine, calibration.canned_speech())
            try:
                while await self.decoders.run(measurement.step):
                    pass
            except EngineError as error:
                self._log.warning("calibration_failed", error=str(error))
                return
            cost = measurement.decode_cost
            self._remember(identity, ModelRecord(works=True, decode_cost=cost), records)
        self.capacity.calibrate(cost)
        self._log.info(
            "calibrated",
            decode_cost=round(cost, 4),
            speakers=self.capacity.calibrated_streams,
            remembered=remembered is not None,
            seconds=round(time.monotonic() - began, 3),
        )

    def _remember(self, identity: ModelIdentity, record: ModelRecord, records: ModelRecords) -> None:
        try:
            records.write(identity, record)
        except OSError as error:
            self._log.warning("model_record_not_written", error=str(error))

    async def _close_recognisers(self, engine: Engine) -> None:
        """Frees, off everybody's way, the recognisers that were given up to save memory. Runs until cancelled."""
        while True:
            held = [await self._closing.receive()]
            # The last reference goes in the thread, because freeing a recogniser takes time.
            try:
                await self.decoders.run(lambda held=held: engine.close(held.pop()))  # type: ignore[misc]
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

    async def _probe(self) -> bool:
        """Whether the recogniser works on canned audio."""
        engine = self._engine
        if engine is None:
            return False
        try:
            await self.decoders.run(lambda: warm_up(engine))
        except EngineError as error:
            self._log.warning("breaker_probe_failed", error=str(error))
            return False
        return True

    def _make_captioner(
        self,
        request: StreamRequest,
        stream_id: str,
        session: Session,
        publisher: Publisher,
        backlog: Backlog,
        log: structlog.stdlib.BoundLogger,
    ) -> Captioner:
        sink = _CountedSink(publisher, self.metrics, backlog)
        return self._captioner(request, stream_id, sink, lambda: session.wants_partials, backlog, log)

    def _captioner(
        self,
        request: StreamRequest,
        stream_id: str,
        sink: CaptionSink,
        wants_partials: Callable[[], bool],
        backlog: Backlog,
        log: structlog.stdlib.BoundLogger,
    ) -> Captioner:
        return Captioner(
            request,
            stream_id,
            gate=SpeechGate(self._gate_config),
            voice=self.voice.open() if self.settings.vad_enabled else None,
            recogniser=SpeakerRecogniser(
                self._loaded_engine,
                self.decoders,
                self._breaker_of(request),
                self.resting,
                log,
                give_up=self._to_close.send_nowait,
                stream_id=stream_id,
            ),
            sink=sink,
            wants_partials=wants_partials,
            on_decoded=lambda samples: self.metrics.speech_seconds.inc(samples / SAMPLE_RATE),
            lag_ms=lambda: _lag_ms(backlog),
            chunk_ms=self._chunk_ms,
            partial_every_ms=lambda: self.degradation.level.partial_every_ms,
            number=next(self._stream_numbers),
            log=log,
        )

    def _breaker_of(self, request: StreamRequest) -> Breaker:
        return self.breakers[primary_subtag(request.language)]

    @property
    def _loaded_engine(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("a client was admitted before the model was loaded")
        return self._engine

    async def _open_listener(
        self,
        config: StreamConfig,
        request: StreamRequest,
        stream_id: str,
        backlog: Backlog,
        log: structlog.stdlib.BoundLogger,
    ) -> Listener:
        """What hears a client of vosk-server. Raises `ModelError` if a model that it needs cannot be loaded."""
        as_it_comes = bool(config.model or config.phrase_list or config.max_alternatives)
        if self.settings.vosk_server_gate and not as_it_comes:
            request = attrs.evolve(request, sample_rate=config.sample_rate)
            return GatedListener(
                lambda sink: self._captioner(request, stream_id, sink, lambda: True, backlog, log),
                words=config.words,
            )
        engine = await self._model_choice.engine(self._loaded_engine, config.model, phrases=bool(config.phrase_list))
        options = PlainOptions(config.sample_rate, config.words, config.max_alternatives, config.phrase_list)
        # What one client's phrases or model provoke must not turn others away.
        breaker = None if config.model or config.phrase_list else self._breaker_of(request)
        number = next(self._stream_numbers)
        self._plain.add(number)
        return PlainListener(
            LockStepRecogniser(
                engine,
                options,
                self.decoders,
                breaker,
                on_decoded=self.metrics.speech_seconds.inc,
                stream_id=stream_id,
            ),
            next_beat=lambda: self._next_plain_beat(number),
            on_close=lambda: self._plain.discard(number),
        )

    def _next_plain_beat(self, number: int) -> float:
        gathered_ms = min(self._chunk_ms(), LONGEST_GATHERING_MS)
        return next_beat(trio.current_time(), gathered_ms, number) if gathered_ms > BEAT_MS else -math.inf

    def _load_chosen_model(self, name: str) -> Engine:
        settings = attrs.evolve(self.settings, vosk_model_path=self.settings.models_dir / name)  # type: ignore[misc]
        return self._load_engine(settings)

    def _chunk_ms(self) -> int:
        speaking = self.resting.speaking + len(self._plain)
        least_ms = chunk_ms(self.settings.decode_chunk_ms, speaking, self.settings.decode_cores)
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
                breakers=tuple(self.breakers.values()),
                decoders=self.decoders,
                capacity=self.capacity,
                degradation=self.degradation,
                describe_service=self._describe,
            ),
        )
        return app

    async def _speak(self, upgrade: Upgrade, socket: Socket) -> Refusal | None:
        request = parse_request(upgrade.query, self._limits)
        if isinstance(request, Refusal):
            return request
        refusal = self.admission.check(request)
        if refusal is None:
            await NativeConnection(request, socket, self._around).run()
        return refusal

    async def _speak_as_to_vosk_server(self, upgrade: Upgrade, socket: Socket) -> Refusal | None:
        request = request_of(self.settings)
        refusal = self.admission.check(request, continuous=decodes_silence(self.settings))
        if refusal is None:
            await VoskServerConnection(request, socket, self._around_vosk_server).run()
        return refusal

    def _describe(self) -> dict[str, object]:
        return {
            "name": "trio-stt",
            "version": __version__,
            "instance": self.settings.instance,
            "uptime_seconds": round(self.health.uptime_s, 3),
            "readiness": self.admission.readiness.value,
            "language": self.settings.language,
            "model": self._model,
            "voice_activity": self.voice.active,
            "sessions": len(self.sessions),
            "speakers": self.admission.speakers,
            "listeners": self.admission.listeners,
        }

    def _add_health(self) -> None:
        self.health.add("model", self._model_health)
        self.health.add("recogniser", self._breaker_health)
        self.health.add("decoders", self._decoder_health)
        self.health.add("bus", self._bus_health)
        self.health.add("voice_activity", self._voice_health)
        thresholds = self.settings.health_memory_degraded, self.settings.health_memory_unhealthy
        self.health.add("memory", partial(memory_health, *thresholds))

    def _model_health(self) -> PartHealth:
        if self._engine is None:
            return PartHealth(Status.UNHEALTHY, "being loaded")
        if self._model.get("graph") == "dynamic":
            return PartHealth(
                Status.DEGRADED, "the graph is not compiled: decoding is several times slower", self._model
            )
        return PartHealth(Status.HEALTHY, "loaded", self._model)

    def _breaker_health(self) -> PartHealth:
        seen = {breaker.name: breaker.statistics() for breaker in self.breakers.values()}
        figures: dict[str, object] = {
            "breakers": {name: one.state.value for name, one in seen.items()},
            "recent_failures": sum(one.failures for one in seen.values()),
        }
        states = {
            BreakerState.CLOSED: Status.HEALTHY,
            BreakerState.HALF_OPEN: Status.DEGRADED,
            BreakerState.OPEN: Status.UNHEALTHY,
        }
        status = max(states[one.state] for one in seen.values())
        return PartHealth(
            status, "working" if status is Status.HEALTHY else "failing, new speakers are refused", figures
        )

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

    def _add_gauges(self) -> None:
        gauge = self.metrics.gauge
        gauge("ready", "1 if new speakers are let in", lambda: float(self.admission.ready))
        gauge("speakers", "Speaking streams", lambda: self.admission.speakers)
        gauge("speakers_limit", "Speaking streams that are let in", lambda: self.admission.speakers_limit)
        gauge("listeners", "Listening clients", lambda: self.admission.listeners)
        gauge("sessions", "Calls with at least one client", lambda: len(self.sessions))
        gauge("decoder_threads_busy", "Threads that decode now", lambda: self.decoders.statistics().busy)
        gauge(
            "decoder_calls_waiting",
            "Recogniser calls that wait for a thread",
            lambda: self.decoders.statistics().waiting,
        )
        gauge("recogniser_memory_mb", "What recognisers take, by estimate", lambda: self.resting.memory_mb)
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
            {breaker.name: _not_admitting(breaker) for breaker in self.breakers.values()},
        )
        gauge(
            "voice_activity_degraded",
            "1 while the preferred detector is not in use",
            lambda: float(self.voice.degraded),
        )

    def _level_number(self) -> float:
        return self.degradation.level.number


def _not_admitting(breaker: Breaker) -> Callable[[], float]:
    return lambda: float(not breaker.admits)


def _make_bus(settings: Settings) -> Bus:
    if settings.redis_url:
        return RedisBus(settings.redis_url, ttl_s=settings.bus_ttl_s)
    return MemoryBus(Memory(ttl_s=settings.bus_ttl_s))


class _CountedSink(CaptionSink):
    """Counts captions on their way."""

    def __init__(self, sink: CaptionSink, metrics: Metrics, backlog: Backlog) -> None:
        self._sink = sink
        self._metrics = metrics
        self._backlog = backlog

    async def publish(self, caption: Transcript) -> None:
        """Counts it and passes it on."""
        self._count(caption)
        await self._sink.publish(caption)

    def publish_now(self, caption: Transcript) -> None:
        """The same at once."""
        self._count(caption)
        self._sink.publish_now(caption)

    def _count(self, caption: Transcript) -> None:
        self._metrics.captions.labels("final" if caption.is_final else "partial").inc()
        self._metrics.lag.observe(_lag_ms(self._backlog) / 1000)


def _lag_ms(backlog: Backlog) -> int:
    """How long the oldest audio in `backlog` has waited."""
    oldest = backlog.oldest_arrival
    return 0 if oldest is None else round((trio.current_time() - oldest) * 1000)
