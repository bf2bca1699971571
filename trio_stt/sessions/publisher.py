"""Brings one stream's captions to its call: finals are on the bus before anybody reads them, as long as it is up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import trio

from trio_stt.dialects.events import Transcript, Translation, Word
from trio_stt.sessions.bus import Outcome
from trio_stt.sessions.caption_sink import CaptionSink
from trio_stt.sessions.journal import StreamJournal
from trio_stt.sessions.session import Member, Session

CONFIRM_S: Final = 2.0
"""The longest that an answer which the client waits for waits for the bus (the wire's "Resume")."""


class Publisher(CaptionSink):
    """The captions and translations of one speaker's stream."""

    def __init__(self, member: Member, session: Session, journal: StreamJournal) -> None:
        """`journal`: the stream's, opened for this connection."""
        self._member = member
        self._session = session
        self._journal = journal

    @property
    def confirmed(self) -> bool:
        """Whether every final so far is where it will be kept."""
        return self._journal.confirmed

    async def wait_confirmed(self) -> bool:
        """Waits for that, at most `CONFIRM_S`; whether it is so. May be cancelled."""
        return await self._journal.wait_confirmed(CONFIRM_S)

    async def publish(self, caption: Transcript) -> None:
        """Takes the next caption: a final waits until it is stored, or the bus turns out to be down."""
        if not caption.is_final:
            self._session.publish_partial(caption)
            return
        with trio.CancelScope(shield=True):  # the bus answers in bounded time, and nothing else is waited for
            published = await self._journal.store(caption)
        if published.outcome is Outcome.OVERLAPS:
            # The others have had the words before that place from an earlier connection of this stream.
            before, behind = divided_at(caption, published.end_sample)
            self._member.deliver(before)
            if behind is not None:
                await self.publish(behind)
        elif published.outcome is not Outcome.FENCED:
            self._tell(caption)

    def publish_now(self, caption: Transcript) -> None:
        """Sends a final to the members here at once; it is stored as soon as possible."""
        self._journal.keep(caption)
        self._tell(caption)

    async def publish_translation(self, translation: Translation) -> None:
        """Takes a final translation; who wants it receives it once, whichever instance made it first."""
        with trio.CancelScope(shield=True):
            published = await self._journal.store(translation)
        if published.outcome in (Outcome.STORED, Outcome.DOWN, Outcome.REFUSED):
            self._session.deliver(translation)

    def _tell(self, final: Transcript) -> None:
        self._session.deliver(final)
        self._session.translate(final, self.publish_translation)


def divided_at(final: Transcript, sample: int) -> tuple[Transcript, Transcript | None]:
    """What of a final lies before `sample`, and what behind it, if it reaches beyond. Words go by their beginning."""
    if final.end_sample <= sample:
        return final, None
    at = sample / final.sample_rate
    before = tuple(word for word in final.words if word.start < at)
    behind = final.words[len(before) :]
    return (
        attrs.evolve(final, end_sample=sample, text=_text_of(before), words=before),
        attrs.evolve(
            final, segment_id=f"{final.segment_id}-behind", start_sample=sample, text=_text_of(behind), words=behind
        ),
    )


def _text_of(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)
