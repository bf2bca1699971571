"""Clients with one planted fault each: the simulation must notice."""

from attrs import evolve

from trio_stt.client.resuming_client import ResumingClient


class FiltersByAck(ResumingClient):
    """Takes a final of its own stream by the last ack instead of by the end of the last final it took."""

    def _take_transcript(self, connection, transcript):
        taken_until, self._accepted = self._accepted, self._acked
        super()._take_transcript(connection, transcript)
        self._accepted = max(taken_until, self._accepted)


class TellsNotWhatItTook(ResumingClient):
    """Always resumes with `accepted` 0."""

    def opened(self, number, now):
        accepted, self._accepted = self._accepted, 0
        super().opened(number, now)
        self._accepted = accepted


class TakesReadyForAnAck(ResumingClient):
    """Forgets what lies before `ready.from_sample`."""

    def _take_ready(self, connection, ready, now, message):
        super()._take_ready(connection, ready, now, message)
        self._acked = max(self._acked, connection.cursor)


class ReplaysNothing(ResumingClient):
    """Goes on where it stopped sending."""

    def opened(self, number, now):
        acked, self._acked = self._acked, self._sent
        super().opened(number, now)
        self._acked = acked


class ForgetsWhatItAsked(ResumingClient):
    """Does not repeat `finalize` on the next connection."""

    def opened(self, number, now):
        super().opened(number, now)
        for command in self._commands:
            if command.sent_on:
                command.sent_on = number


class KeepsTheFirstToken(ResumingClient):
    """Never takes a newer token."""

    def _take_ready(self, connection, ready, now, message):
        token = self._token
        super()._take_ready(connection, ready, now, message)
        self._token = token or self._token

    def _take_ack(self, connection, ack):
        super()._take_ack(connection, evolve(ack, resume_token=None))


class HearsOldConnections(ResumingClient):
    """Takes finals from a connection that another one has replaced."""

    def received(self, number, now, message):
        if self._connection is not None:
            number = self._connection.number
        super().received(number, now, message)


class ReportsEarly(ResumingClient):
    """Reports as lost what it drops, before it knows what became of it."""

    def _make_room(self):
        super()._make_room()
        self._doubts.add(self._settled(), self._held.oldest)
        self._report_losses()


class ReportsNothing(ResumingClient):
    """Never says what was lost."""

    def _report_losses(self):
        self._doubts.take()


class DropsWithoutAsking(ResumingClient):
    """A file's samples are dropped as if they came from a microphone."""

    @property
    def room_samples(self):
        return self._room_samples

    def _make_room(self):
        self._held.drop_before(self._held.newest - self._room_samples)


class EndsAtEvery4001(ResumingClient):
    """Forgets that an abandoned try of its own may have replaced it."""

    def _abandon(self, server, now):
        super()._abandon(server, now)
        self._abandoned = 0


FAULTY = [
    EndsAtEvery4001,
    FiltersByAck,
    TellsNotWhatItTook,
    TakesReadyForAnAck,
    ReplaysNothing,
    ForgetsWhatItAsked,
    KeepsTheFirstToken,
    HearsOldConnections,
    ReportsEarly,
    ReportsNothing,
    DropsWithoutAsking,
]
