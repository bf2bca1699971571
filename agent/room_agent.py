"""The agent's life in one room: who speaks there is captioned, and who reads another language gets translations.

It goes in with a token of its own, hears every microphone and every shared screen as a speaker of its own, and leaves
when nobody is left. What a participant says is on the server the client `agent.names.speaker_name` of the session
`agent.names.call_name`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from livekit import rtc

from agent import names
from agent.audience import SPEAKING, Audience
from agent.control import is_language
from agent.listener import Listener
from agent.room_connection import RoomNotEnteredError, enter, leave
from agent.room_controls import RoomControls
from agent.room_post import RoomPost
from agent.settings import AgentSettings
from agent.speaker import Speaker
from agent.spoken_tracks import Speech, SpokenTracks
from agent.unbroken import unbroken
from trio_stt.dialects.events import Transcript, Translation
from trio_stt.operations.logs import without_message
from trio_stt.rooms.wanted import WantedRoom

TICK_S: Final = 0.5

LAST_WORDS_S: Final = 2.0
"""When the agent leaves, what was said last is waited for so long."""

LISTEN_AGAIN_S: Final = 2.0
"""After a fault of ours the call is listened to again so much later."""

_NOT_PEOPLE: Final = frozenset(
    {rtc.ParticipantKind.PARTICIPANT_KIND_AGENT, rtc.ParticipantKind.PARTICIPANT_KIND_EGRESS}
)
"""Neither heard nor waited for: agents and recorders."""

_SENT_AWAY: Final = {
    rtc.DisconnectReason.PARTICIPANT_REMOVED: "removed",
    rtc.DisconnectReason.ROOM_DELETED: "room deleted",
    rtc.DisconnectReason.ROOM_CLOSED: "room closed",
}
"""Reasons of the LiveKit server after which the room is wanted no more."""


class RoomLostError(Exception):
    """The LiveKit server, or the connection to it, is gone; the room is to be entered again. The message says why."""


class RoomAgent:
    """One life in one room: `agent.pool.RoomWorker`. `speech`: what speaks translations; None: nothing does."""

    def __init__(self, settings: AgentSettings, wanted: WantedRoom, speech: Speech | None = None) -> None:
        self._settings = settings
        self._room_name = wanted.room_name
        self._call = names.call_name(wanted.room_name)
        self._log = structlog.get_logger().bind(room_name=wanted.room_name)
        self._audience = Audience(wanted.languages)
        self._speaks = wanted.speak
        self._is_captioning = True
        self._speakers: dict[str, Speaker] = {}
        self._ended_drops = 0
        self._post = RoomPost(self._log)
        self._listener = Listener(settings, self._call, self._heard, self._log)
        self._controls = RoomControls(self, self._post, settings.controllers)
        self._spoken = None if speech is None else SpokenTracks(speech, self._log)
        self._room: rtc.Room | None = None
        self._lost: str | None = None
        self._sent_away: str | None = None
        self._news = asyncio.Event()

    # ── its life ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> str:
        """Goes in, stays, and returns why it left: nobody was left there, or it was sent away.

        Raises `RoomNotEnteredError` and `RoomLostError`. If cancelled, it leaves first: takes `LAST_WORDS_S` for what
        was said last, and then up to some seconds where the LiveKit server does not answer.
        """
        room = rtc.Room()
        self._bind(room)
        try:
            await enter(room, self._settings, self._room_name)
        except RoomNotEnteredError as error:
            self._log.error("room_not_entered", why=str(error))
            raise
        listening = asyncio.create_task(self._keep_listening())
        try:
            self._use(room)
            self._log.info("room_entered")
            self._look_around(room)
            return await self._stay(room)
        finally:
            await unbroken(self._go(room, listening))

    def status(self) -> Mapping[str, object]:
        """Figures of this life: `tracks` heard now, `captions` sent, `drops` (frames lost), and more in words."""
        return {
            "tracks": sum(1 for each in self._speakers.values() if each.track_sid),
            "captions": self._post.sent,
            "drops": self._ended_drops + sum(each.drops for each in self._speakers.values()),
        }

    async def _stay(self, room: rtc.Room) -> str:
        clock = asyncio.get_running_loop().time
        people_at = clock()
        while True:
            if self._sent_away is not None:
                return self._sent_away
            if self._lost is not None:
                raise RoomLostError(self._lost)
            if not self._is_connected or any(_is_person(each) for each in room.remote_participants.values()):
                people_at = clock()
            elif clock() - people_at >= self._settings.empty_room_s:
                return "empty"
            await self._tend()
            self._news.clear()
            try:
                async with asyncio.timeout(TICK_S):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def _tend(self) -> None:
        for client, speaker in list(self._speakers.items()):
            speaker.check()
            speaker.voice.tick()
            if speaker.is_done:
                del self._speakers[client]
                self._ended_drops += speaker.drops
                await unbroken(speaker.close())
        if self._spoken is not None:
            there = {each.identity for each in self._speakers.values()} | {self._settings.name}
            await self._spoken.keep(lambda identity, language: identity in there)

    async def _go(self, room: rtc.Room, listening: asyncio.Task[None]) -> None:
        """Out of the room. What was said last is captioned, if there is a connection."""
        within_s = LAST_WORDS_S if self._is_connected else 0.0
        closed = await asyncio.gather(
            *(each.close(within_s) for each in self._speakers.values()), return_exceptions=True
        )
        for error in closed:
            if error is not None:
                self._log.error("speaker_not_closed", error=without_message(error))
        self._ended_drops += sum(each.drops for each in self._speakers.values())
        self._speakers.clear()
        listening.cancel()
        await asyncio.wait([listening])
        if self._spoken is not None:
            await self._spoken.keep(lambda identity, language: False)
            self._spoken.use(None)
        await leave(room, self._log)
        self._post.close()
        self._log.info("room_out", **self.status())

    async def _keep_listening(self) -> None:
        while True:
            try:
                await self._listener.run()
            except Exception as error:  # noqa: BLE001  (a boundary: finals go on without it)
                self._log.error("listener_failed", error=without_message(error))
            await asyncio.sleep(LISTEN_AGAIN_S)

    # ── what happens in the room ─────────────────────────────────────────────────────────────────────────────────

    @property
    def _is_connected(self) -> bool:
        return self._room is not None

    def _use(self, room: rtc.Room | None) -> None:
        self._room = room
        self._post.use(room)
        if self._spoken is not None:
            self._spoken.use(room)

    def _bind(self, room: rtc.Room) -> None:
        room.on("participant_connected", self._on_participant)
        room.on("participant_disconnected", self._on_participant_gone)
        room.on("participant_attributes_changed", lambda changed, participant: self._on_participant(participant))
        room.on("track_published", self._subscribe)
        room.on("track_subscribed", self._on_track)
        room.on("track_unsubscribed", lambda track, publication, participant: self._detach(participant, publication))
        room.on("track_unpublished", lambda publication, participant: self._detach(participant, publication))
        room.on("track_muted", self._on_muted)
        room.on("data_received", self._controls.take)
        room.on("reconnecting", lambda: self._on_reconnecting())
        room.on("reconnected", lambda: self._on_reconnected(room))
        room.on("disconnected", self._on_disconnected)

    def _look_around(self, room: rtc.Room) -> None:
        """Who and what is there already."""
        for participant in room.remote_participants.values():
            self._on_participant(participant)
            for publication in participant.track_publications.values():
                self._subscribe(publication, participant)

    def _on_participant(self, participant: rtc.Participant) -> None:
        if not isinstance(participant, rtc.RemoteParticipant) or not _is_person(participant):
            return
        self._audience.see(participant.identity, participant.attributes)
        language = self._language_of(participant)
        for speaker in self._speakers.values():
            if speaker.identity == participant.identity:
                speaker.voice.speaks(language)
        self._ask_translations()
        self._news.set()

    def _on_participant_gone(self, participant: rtc.RemoteParticipant) -> None:
        self._audience.forget(participant.identity)
        self._ask_translations()
        for speaker in self._speakers.values():
            if speaker.identity == participant.identity:
                speaker.detach(speaker.track_sid)
        self._news.set()

    def _subscribe(self, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant) -> None:
        """Subscribes to what can be heard of people, and to nothing else."""
        if publication.kind == rtc.TrackKind.KIND_AUDIO and _is_person(participant) and not publication.subscribed:
            publication.set_subscribed(True)

    def _on_track(
        self, track: rtc.RemoteTrack, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant
    ) -> None:
        if publication.kind != rtc.TrackKind.KIND_AUDIO or not _is_person(participant):
            return
        client = self._client_of(participant.identity, publication)
        speaker = self._speakers.get(client)
        if speaker is None:
            speaker = self._speakers[client] = Speaker(
                self._settings,
                self._call,
                client,
                participant.identity,
                self._language_of(participant),
                self._post,
                self._audience.of,
                lambda: self._begins(participant.identity),
                self._log,
            )
            speaker.is_heard = self._is_captioning
        speaker.attach(track, publication.sid)
        self._log.info("track_heard", client=client)

    def _detach(self, participant: rtc.RemoteParticipant, publication: rtc.RemoteTrackPublication) -> None:
        for speaker in self._speakers.values():
            if speaker.identity == participant.identity:
                speaker.detach(publication.sid)

    def _on_muted(self, participant: rtc.Participant, publication: rtc.TrackPublication) -> None:
        for speaker in self._speakers.values():
            if speaker.track_sid == publication.sid:
                speaker.mute()

    def _on_reconnecting(self) -> None:
        self._log.info("room_reconnecting")
        self._use(None)

    def _on_reconnected(self, room: rtc.Room) -> None:
        self._log.info("room_reconnected")
        self._use(room)
        self._look_around(room)

    def _on_disconnected(self, reason: rtc.DisconnectReason.ValueType) -> None:
        self._use(None)
        self._sent_away = _SENT_AWAY.get(reason)
        self._lost = rtc.DisconnectReason.Name(reason)
        if reason != rtc.DisconnectReason.CLIENT_INITIATED:
            self._log.warning("room_disconnected", reason=self._lost)
        self._news.set()

    def _client_of(self, identity: str, publication: rtc.RemoteTrackPublication) -> str:
        """The server's client for that sound of a participant."""
        if publication.source == rtc.TrackSource.SOURCE_SCREENSHARE_AUDIO:
            client = names.screen_name(identity)
        elif publication.source == rtc.TrackSource.SOURCE_MICROPHONE:
            client = names.speaker_name(identity)
        else:
            return names.other_name(identity, publication.sid)
        there = self._speakers.get(client)
        is_taken = there is not None and there.track_sid not in ("", publication.sid)
        return names.other_name(identity, publication.sid) if is_taken else client

    def _language_of(self, participant: rtc.Participant) -> str:
        language = participant.attributes.get(SPEAKING, "")
        return language if is_language(language) else self._settings.language

    # ── what the server says ─────────────────────────────────────────────────────────────────────────────────────

    def _heard(self, caption: Transcript | Translation) -> None:
        speaker = self._speakers.get(caption.client_id)
        if speaker is None:
            return  # one who speaks in the call from elsewhere, or is gone
        if isinstance(caption, Transcript):
            speaker.unfinished(caption)
            return
        speaker.translated(caption)
        if caption.is_final and self._is_spoken(caption.language) and self._spoken is not None:
            self._spoken.say(speaker.identity, caption.translation, caption.language, None)

    def _begins(self, identity: str) -> None:
        if self._spoken is not None and self._settings.speak_interrupt:
            self._spoken.interrupt(identity)

    def _is_spoken(self, language: str) -> bool:
        return self._speaks and self._is_captioning and language in self._audience.for_all

    def _ask_translations(self) -> None:
        self._listener.want(self._audience.languages)

    # ── what participants ask for: `agent.room_controls.Controlled` ──────────────────────────────────────────────

    def start(self, languages: tuple[str, ...] | None, speak: bool | None) -> None:
        """Captions what is said from now on, in `languages` for everybody, spoken or not; None: as before."""
        if languages is not None:
            self._audience.for_all = languages
            self._ask_translations()
        if speak is not None:
            self._speaks = speak
        self._is_captioning = True
        for speaker in self._speakers.values():
            speaker.is_heard = True

    def stop(self) -> None:
        """Captions nothing from now on; the agent stays."""
        self._is_captioning = False
        for speaker in self._speakers.values():
            speaker.is_heard = False
            speaker.mute()

    def say(self, text: str, language: str, voice: str | None, done: Callable[[str], None]) -> None:
        """Speaks `text` into the room on a track of the agent's own; `done` is told how it went."""
        if self._spoken is None:
            done("not_available")
        else:
            self._spoken.say(self._settings.name, text, language, voice, done, within_s=None)

    def state(self) -> Mapping[str, object]:
        """What is going on, as participants are told it."""
        return {
            "state": "captioning" if self._is_captioning else "stopped",
            "languages": list(self._audience.for_all),
            "translated": list(self._listener.languages),
            "not_translated": sorted(self._listener.refused_languages),
            "speak": self._speaks,
            "can_speak": self._spoken is not None,
            "speakers": [
                {"identity": each.identity, "track_sid": each.track_sid, "state": each.voice.state}
                for each in self._speakers.values()
                if each.track_sid
            ],
            **self.status(),
        }


def _is_person(participant: rtc.Participant) -> bool:
    return participant.kind not in _NOT_PEOPLE
