"""A speaker who resumes, instances that share a bus, the network between them, and what must hold in any case.

The instances and the client are the real ones; played are sound, sockets, the bus in memory, and time. `World` is used
within a Trio run with a `MockClock`; see `tests.server.promise.machine` for who uses it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any, NoReturn
from unittest.mock import patch

import numpy as np
import structlog
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.server.promise.freezing import Freezing
from tests.server.promise.labelled_speech import BLOCK, spoken, word_of
from tests.server.promise.played_bus import Span, Witness
from tests.server.promise.played_instance import PlayedInstance, settings_of_instances
from tests.server.promise.played_network import GIVEN_UP_S, Link, Network
from tests.unit.fakes import LOUD
from trio_stt.client import resuming_connection
from trio_stt.client.resume_events import Ended, EndReason, ResumingEvent
from trio_stt.client.resuming_client import ResumingClient
from trio_stt.client.resuming_connection import ResumingStream
from trio_stt.dialects.events import Ack, Configured, StreamRequest, Transcript
from trio_stt.drill.checker import disorder, miscounted, visible_errors
from trio_stt.sessions.bus import Call, StoredFinal
from trio_stt.sessions.bus_messages import decode
from trio_stt.sessions.memory_bus import Memory
from trio_stt.sessions.session import Session

MODEL_RATE = 16_000
PIECE_S = 0.1
CALL = Call("", "call")
BEGAN_AT = 1_700_000_000.0
"""Unix seconds when each world begins."""

FAULTS_OF_OURS = (
    "stream_failed",
    "connection_failed",
    "bus_receiver_failed",
    "bus_caption_given_up",
    "bus_journal_full",
)
"""What no instance may have to log."""

HEALED_S = 90.0
"""So long after everything is well again the stream must have come to its end."""


class PromiseBrokenError(AssertionError):
    """What docs/wire.md promises does not hold."""


class World:
    """`do`s are called between checkpoints of `run`; those that are async let time pass."""

    def __init__(self, clock: MockClock, *, seed: int, instances: int, rate: int) -> None:
        self._clock = clock
        self._rate = rate
        self._memory = Memory(ttl_s=36_000)
        self._settings = settings_of_instances()
        self._started = 0
        self.witness = Witness()
        self.network = Network()
        self.instances: list[PlayedInstance | None] = [None] * instances
        request = StreamRequest(
            "ann", CALL.session_id, sample_rate=rate, language="en", framing="seq", words=rate == MODEL_RATE
        )
        addresses = [f"ws://i{place}" for place in range(instances)]
        self.client = ResumingClient(addresses, request, random=Random(seed), now=trio.current_time())
        self.stream = ResumingStream(self.client, None)
        self.events: list[ResumingEvent] = []
        self.phrases: list[Span] = []
        self._blocks: list[Span] = []
        self._asked: list[str] = []
        self._configured = 0

    # ── its life ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        with ExitStack() as held:
            held.enter_context(patch.object(time, "time", lambda: BEGAN_AT + self._clock.current_time()))
            held.enter_context(patch.object(resuming_connection, "connect", self.network.connect))
            held.enter_context(patch.object(Session, "deliver", self._witnessed(Session.deliver)))
            held.enter_context(self._reading_logs())
            freezing = Freezing()
            trio.lowlevel.add_instrument(freezing)
            held.callback(trio.lowlevel.remove_instrument, freezing)
            async with trio.open_nursery() as self._nursery:
                for place in range(len(self.instances)):
                    self.restart(place)
                self._nursery.start_soon(self.stream.keep)
                self._nursery.start_soon(self._listen)
                await wait_all_tasks_blocked()
                task_status.started()
                await trio.sleep_forever()

    def end(self) -> None:
        """Ends `run`. Nothing counts any more."""
        for place, instance in enumerate(self.instances):
            if instance is not None:
                self.kill(place, 0, told=False)
        self._nursery.cancel_scope.cancel()
        self._clock.autojump_threshold = 0

    @contextmanager
    def _reading_logs(self) -> Iterator[None]:
        def read(logger: object, method: str, line: MutableMapping[str, Any]) -> NoReturn:
            if line["event"] in FAULTS_OF_OURS:
                self.witness.faults.append(f"{line['event']}: {sys.exc_info()[1]!r}")
            raise structlog.DropEvent

        before = structlog.get_config()
        structlog.configure(processors=[read], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
        try:
            yield
        finally:
            structlog.configure(**before)

    def _witnessed(self, deliver):
        def witnessed(session, event):
            if isinstance(event, Transcript) and event.is_final:
                self.witness.told(event)
            return deliver(session, event)

        return witnessed

    async def _listen(self) -> None:
        async for event in self.stream:
            self.events.append(event)
            if isinstance(event, Ack):
                self._check_ack(event)
            elif isinstance(event, Configured):
                self._configured += 1

    async def pass_time(self, seconds: float) -> None:
        """Everything goes on for so long."""
        self._clock.autojump_threshold = 0
        await trio.sleep(seconds)
        self._clock.autojump_threshold = float("inf")
        await wait_all_tasks_blocked()

    # ── the speaker ──────────────────────────────────────────────────────────────────────────────────────────────

    async def speak(self, blocks: int, *, at_once: bool = False) -> None:
        """Says so many blocks; `at_once`: faster than they could be spoken, as from a file."""
        first, begin, count = len(self._blocks), self.client.given_samples, blocks * BLOCK * self._rate // MODEL_RATE
        samples = np.full(count, LOUD, "<i2")
        if self._rate == MODEL_RATE:
            samples = spoken(first, blocks)
            starts = range(begin, begin + count, BLOCK)
            self._blocks += [(start, start + BLOCK) for start in starts]
        self.phrases.append((begin, begin + count))
        await self._give(samples, at_once)

    async def be_silent(self, seconds: float, *, at_once: bool = False) -> None:
        """Gives silence."""
        await self._give(np.zeros(round(seconds * self._rate), "<i2"), at_once)

    async def _give(self, samples: np.ndarray, at_once: bool) -> None:
        piece = round(PIECE_S * self._rate)
        for begin in range(0, len(samples), piece):
            if self.client.ended is not None:
                return
            await self.stream.send_audio(samples[begin : begin + piece].tobytes())
            await (wait_all_tasks_blocked() if at_once else self.pass_time(PIECE_S))

    async def finalize(self) -> None:
        """Asks for all that was said."""
        if self.client.ended is None:
            self._asked.append(f"f{len(self._asked)}")
            await self.stream.finalize(self._asked[-1])

    async def configure(self, partials: bool) -> None:
        """Changes what it reads."""
        if self.client.ended is None:
            await self.stream.configure(partials=partials)

    # ── what befalls them ────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _links_in_use(self) -> list[Link]:
        return [link for link in self.network.links if not link.over]

    def cut(self, kept: float, *, tell_client: bool, tell_server: bool) -> None:
        """The network loses the connections in use, and of what was on its way all but that share."""
        for link in self._links_in_use:
            link.cut(kept, tell_client=tell_client, tell_server=tell_server)
            if not tell_server:
                self._nursery.start_soon(self._notice, link)

    async def _notice(self, link: Link) -> None:
        await trio.sleep(GIVEN_UP_S)
        link.to_server.give_up()

    def hold_up(self, *, requests: bool, answers: bool) -> None:
        """From now on what is sent stays on its way, in these directions; in the others all arrives at once."""
        self.network.holds_up_requests, self.network.holds_up_answers = requests, answers
        for link in self.network.links:
            for direction, held_up in ((link.to_server, requests), (link.to_client, answers)):
                if not held_up:
                    direction.deliver(len(direction.on_its_way))

    def deliver(self, count: int) -> None:
        """Of what is held up the next few messages arrive."""
        self.network.deliver(count)

    def kill(self, place: int, kept: float, *, told: bool) -> None:
        """That process, or its machine, is no more."""
        instance, self.instances[place] = self.instances[place], None
        self.network.listeners.pop(f"i{place}", None)
        if instance is not None:
            instance.kill(kept, told=told)

    def restart(self, place: int) -> None:
        """If there is none, a new process takes that place."""
        if self.instances[place] is None:
            self._started += 1
            instance = PlayedInstance(
                f"n{self._started}",
                self._memory,
                self.witness,
                self._settings,
                labelled=self._rate == MODEL_RATE,
            )
            self.instances[place] = instance
            self.network.listeners[f"i{place}"] = instance.ask
            self._nursery.start_soon(instance.run)
            self._nursery.start_soon(self._see_off, place, instance)

    async def _see_off(self, place: int, instance: PlayedInstance) -> None:
        await instance.ended.wait()
        if self.instances[place] is instance:
            self.kill(place, 1, told=True)

    def place_in_use(self) -> int | None:
        """Where the client was last taken in."""
        for link in reversed(self.network.links):
            for place, instance in enumerate(self.instances):
                if instance is not None and link in instance.links:
                    return place
        return None

    def freeze(self, place: int) -> None:
        """That process stops, for a while."""
        self._with(place, PlayedInstance.freeze)

    def thaw(self, place: int) -> None:
        """It goes on."""
        self._with(place, PlayedInstance.thaw)

    def drain(self, place: int) -> None:
        """That process is asked to end."""
        self._with(place, PlayedInstance.drain)

    def slow_down(self, place: int, slowness: float) -> None:
        """Decoding takes so long there."""
        self._with(place, lambda instance: setattr(instance.decoders, "slowness", slowness))

    def delay_bus(self, place: int, delay_s: float) -> None:
        """What goes to and from the bus takes so long there."""
        self._with(place, lambda instance: setattr(instance.bus, "delay_s", delay_s))

    def lose_next_answer(self, place: int) -> None:
        """The bus does what it is asked next by that process, which is not told; and is cut off."""
        self._with(place, lambda instance: setattr(instance.bus, "loses_next_answer", True))

    def cut_from_bus(self, place: int) -> None:
        """That process does not reach the bus."""
        self._with(place, lambda instance: instance.bus.cut())

    def mend_bus_of(self, place: int) -> None:
        """It does again."""
        self._with(place, lambda instance: instance.bus.mend())

    def _with(self, place: int, act) -> None:
        instance = self.instances[place]
        if instance is not None:
            act(instance)

    def lose_bus(self, *, forget: bool) -> None:
        """The bus is away for all; `forget`: and will be empty."""
        if forget:
            self.witness.forget()
        self._memory.stop(forget=forget)

    def find_bus(self) -> None:
        """It is back."""
        if self._memory.down:
            self._memory.start()

    # ── what must hold ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def finals(self) -> list[Transcript]:
        """That the client has accepted."""
        return [event for event in self.events if isinstance(event, Transcript) and event.is_final]

    def check(self) -> None:
        """What holds at all times. Raises `PromiseBrokenError`."""
        faults = [
            *self.witness.faults,
            *disorder(self.events, "ann"),
            *map(repr, miscounted(self._phrases_before(self.client.acked), self.finals)),
            *self._disorder_on_the_bus(),
        ]
        if not (self.events and isinstance(self.events[-1], Ended)):
            faults += visible_errors([*self.events, _FINISHED])
        if faults:
            raise PromiseBrokenError("; ".join(faults))

    def _phrases_before(self, sample: int) -> list[Span]:
        return [(begin, min(end, sample)) for begin, end in self.phrases if begin < sample]

    def _check_ack(self, ack: Ack) -> None:
        """Speech before it is stored, whatever becomes of it later."""
        missing = [span for span in self._phrases_before(ack.sample) if not _covered(span, self.witness.stored)]
        if missing:
            self.witness.faults.append(f"ack {ack.sample}, and {missing} is not stored")

    def _disorder_on_the_bus(self) -> list[str]:
        faults, reached = [], {}
        for payload in self._memory.call(CALL).entries.values():
            message = decode(payload, CALL)
            assert message is not None
            kept = message.event
            assert isinstance(kept, StoredFinal)
            final = kept.final
            if final.start_sample < max(reached.get(final.stream_id, 0), kept.follows):
                faults.append(f"{final.segment_id} is stored in the wrong place: {kept}")
            reached[final.stream_id] = final.end_sample
        return faults

    async def finish(self) -> None:
        """Everything is well again, the client ends its stream: all that it said must be there."""
        self.heal()
        self.check()
        if self.client.ended is None:
            await self.stream.end()
        for _ in range(round(HEALED_S)):
            if self.client.ended is not None:
                break
            await self.pass_time(1)
            self.heal()  # a process that was asked to end before has ended
        await self.pass_time(20)  # for whom the windows of lost connections have not ended yet
        self.check()
        faults = [
            *map(repr, miscounted(self.phrases, self.finals)),
            *visible_errors(self.events),
            *self._wrong_words(),
        ]
        answers = [event.id for event in self.events if isinstance(event, Ack) and event.from_finalize]
        if answers != self._asked:
            faults.append(f"{self._asked} were asked for, {answers} answered")
        if faults:
            raise PromiseBrokenError("; ".join(faults))

    def heal(self) -> None:
        """All processes run, the network and the bus work."""
        self.hold_up(requests=False, answers=False)
        for place in range(len(self.instances)):
            self.restart(place)
            self.thaw(place)
            self.slow_down(place, 0)
            self.delay_bus(place, 0)
            self._with(place, lambda instance: setattr(instance.bus, "loses_next_answer", False))
            self.mend_bus_of(place)
        self.find_bus()

    def _wrong_words(self) -> list[str]:
        """Each block within one final is a word of it, once, and of no other; one that a boundary divides is heard."""
        faults = []
        heard = [(final, final.text.split()) for final in self.finals]
        for block, (begin, end) in enumerate(self._blocks):
            word = word_of(block)
            counts = [(final, words.count(word)) for final, words in heard if word in words]
            whole = [final for final in self.finals if final.start_sample <= begin and end <= final.end_sample]
            if whole and counts != [(whole[0], 1)]:
                faults.append(f"{word} is heard in {[(final.segment_id, count) for final, count in counts]}")
            if not counts:
                faults.append(f"{word} is heard nowhere")
        return faults


_FINISHED = Ended(EndReason.FINISHED)


def _covered(span: Span, spans: list[Span]) -> bool:
    begin, end = span
    for start, stop in sorted(spans):
        if start <= begin < stop:
            begin = stop
    return begin >= end
