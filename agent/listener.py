"""The agent as a listener to its room's call on the server: unfinished captions of all voices, and all translations.

One connection for the whole room: would each voice's own stream get these, every caption would be sent as often as
there are voices. Finals do not come from here but from the voices' own streams, which lose none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from agent import names
from agent.settings import AgentSettings
from trio_stt.client.asyncio_connection import ResumingStream, StreamEndedError, open_resuming_stream
from trio_stt.client.resume_events import EndReason
from trio_stt.dialects.events import Configured, Failure, StreamRequest, Transcript, Translation

AGAIN_S: Final = 15.0
LONGEST_AGAIN_S: Final = 300.0
"""After the server refused the listener it is asked again so much later: from the first pause to the longest, doubling.
"""

STEADY_S: Final = 5.0
"""A stream that lasted so long before the server ended it well is followed by another one at once."""


class Listener:
    """Listens until `run` is cancelled. `heard` gets every unfinished caption and every translation."""

    def __init__(
        self,
        settings: AgentSettings,
        call: str,
        heard: Callable[[Transcript | Translation], None],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.languages: tuple[str, ...] = ()
        self.refused_languages: set[str] = set()
        self._settings = settings
        self._call = call
        self._heard = heard
        self._log = log
        self._wanted: tuple[str, ...] = ()
        self._asked: tuple[str, ...] | None = None
        self._stream: ResumingStream | None = None
        self._asking: asyncio.Task[None] | None = None

    def want(self, languages: tuple[str, ...]) -> None:
        """From now on captions are to be translated into exactly these."""
        self._wanted = languages
        self.refused_languages &= set(languages)  # who asks anew is answered anew
        self._ask()

    async def run(self) -> None:
        """Listens, through lost connections and servers, until cancelled."""
        request = StreamRequest(names.LISTENER, self._call, language=self._settings.language, speak=False)
        token = self._settings.stt_token(self._call)
        clock = asyncio.get_running_loop().time
        again_s = AGAIN_S
        while True:
            began = clock()
            async with open_resuming_stream(self._settings.stt_url, request, token=token) as stream:
                self._stream, self._asked, self.languages = stream, None, ()
                self._ask()
                try:
                    await self._read(stream)
                finally:
                    self._stream = None
            ended = stream.ended
            if clock() - began >= STEADY_S:
                again_s = AGAIN_S
                if ended is not None and ended.reason is EndReason.FINISHED:
                    continue
            if ended is not None:
                self._log.warning(
                    "listener_refused",
                    reason=ended.reason.value,
                    code=ended.code,
                    message=ended.message,
                    again_in_s=again_s,
                )
            await asyncio.sleep(again_s)
            again_s = min(2 * again_s, LONGEST_AGAIN_S)

    def _ask(self) -> None:
        """Asks for one change of the languages at a time: the server's answer does not say which one it refuses."""
        if self._stream is None or self._asked is not None:
            return
        kept = tuple(language for language in self.languages if language in self._wanted)
        new = [each for each in self._wanted if each not in kept and each not in self.refused_languages]
        if kept == self.languages and not new:
            return
        self._asked = (*kept, *new[:1])
        self._asking = asyncio.create_task(self._configure(self._stream, self._asked))

    async def _configure(self, stream: ResumingStream, languages: tuple[str, ...]) -> None:
        changes: dict[str, object] = {"translation": bool(languages), "target": list(languages)}
        if languages:
            changes["read_language"] = languages[0]
        with suppress(StreamEndedError):  # then `run` opens the next one, and asks again
            await stream.configure(**changes)

    async def _read(self, stream: ResumingStream) -> None:
        async for event in stream:
            match event:
                case Translation() | Transcript(is_final=False):
                    self._heard(event)
                case Configured():
                    if self._asked is not None:
                        self.languages, self._asked = self._asked, None
                    self._ask()
                case Failure(code=code, extra=extra):
                    self._log.warning("listener_failure", code=code)
                    if self._asked is not None and "parameter" in extra:
                        self.refused_languages |= set(self._asked) - set(self.languages)
                        self._asked = None
                        self._ask()
                case _:
                    pass
