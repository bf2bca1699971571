"""The server's word error rate beside the engine's alone, over the same sound under several conditions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from trio_stt.bench.engine_process import EngineProcess
from trio_stt.bench.figures import Figure
from trio_stt.bench.generator.load import FramedSession, Talker
from trio_stt.bench.generator.process import Generators
from trio_stt.bench.measured_load import LoadBench
from trio_stt.bench.measured_server import MeasuredServer
from trio_stt.bench.raw_engine import RawEngine
from trio_stt.bench.sound_conditions import CONDITIONS, at_model_rate, under
from trio_stt.bench.speech import Clip
from trio_stt.bench.spoken_sessions import continuous_session
from trio_stt.bench.stream_lag import heard_words, is_whole
from trio_stt.bench.traffic import framed
from trio_stt.bench.word_errors import WordErrors, total, word_errors

MOST_WORSE_POINTS = 0.5
"""So much more than the raw engine's may the error rate be, in percentage points over all conditions."""

SESSION_S = 15.0
"""Length of a session: some clips in one order of many."""

_ROOM_S = 1.0  # for the last frames; what is said anew in it is far from whole


class AccuracyBench:
    """Says the same sessions to the server and to the engine; gathers `figures` and `notes`."""

    def __init__(
        self, server: MeasuredServer, clips: Sequence[Clip], model: Path, words: int, speakers: int, frame_ms: int
    ) -> None:
        """At least `words` words are said, a part of them under each condition, by `speakers` at once."""
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self._server = server
        self._model = model
        self._speakers = speakers
        self._sessions = sessions_under_all_conditions(clips, words)
        self._library = [framed(clip, frame_ms, server.dialect) for _, clip in self._sessions]

    async def run(self, say: Callable[[str], None]) -> None:
        """Measures. Raises `ModelError`, `EngineError`, `GeneratorError`, `OSError`. May be cancelled."""
        say(f"{sum(len(clip.words) for _, clip in self._sessions)} words to {self._server.name}")
        heard = await self._by_server()
        say("The same words to the engine alone")
        raw = await self._by_engine()
        for condition in CONDITIONS:
            places = [place for place, (name, _) in enumerate(self._sessions) if name == condition]
            self._compare(condition, [heard[place] for place in places], [raw[place] for place in places])
        self._compare("all", heard, raw)

    async def _by_server(self) -> list[WordErrors]:
        """Of each session in turn. One that never came to its end has lost all its words."""
        plan = _shared_out(self._library, self._speakers)
        longest_s = max(each.starts_s + sum(self._library[at].seconds for at in each.sessions) for each in plan)
        found = [WordErrors(len(clip.words), len(clip.words)) for _, clip in self._sessions]
        with Generators(self._library) as generators:
            bench = LoadBench(
                generators, [clip for _, clip in self._sessions], self._library, 0.0, 0.0, longest_s + _ROOM_S
            )
            measured = await bench.put(self._server, plan)
        self.notes += measured.notes()
        for connection in measured.result.connections:
            if is_whole(connection):
                said = self._sessions[connection.session][1].words
                found[connection.session] = word_errors(said, heard_words(connection, self._server.dialect))
        return found

    async def _by_engine(self) -> list[WordErrors]:
        wide = [at_model_rate(clip) for _, clip in self._sessions]
        with EngineProcess(self._model, wide) as process:
            raw = RawEngine(process)
            return [await raw.errors([clip]) for clip in wide]

    def _compare(self, condition: str, server: Sequence[WordErrors], raw: Sequence[WordErrors]) -> None:
        ours, alone = total(server), total(raw)
        label = f"{condition}, {ours.words} words"
        self.figures.append(Figure(f"{label}: word error rate, server", 100 * ours.rate, "%"))
        self.figures.append(Figure(f"{label}: word error rate, raw engine", 100 * alone.rate, "%"))
        most = MOST_WORSE_POINTS if condition == "all" else None
        self.figures.append(Figure(f"{label}: difference", 100 * (ours.rate - alone.rate), "points", most))


def sessions_under_all_conditions(clips: Sequence[Clip], words: int) -> list[tuple[str, Clip]]:
    """Sessions of at least `words` words in all, each with the name of its condition, the conditions in turn."""
    dice = random.Random(words)
    found: list[tuple[str, Clip]] = []
    while sum(len(clip.words) for _, clip in found) < words:
        found += [(condition, under(condition, continuous_session(clips, SESSION_S, dice))) for condition in CONDITIONS]
    return found


def _shared_out(library: Sequence[FramedSession], speakers: int) -> list[Talker]:
    """Talkers who say every session once; they begin within a second, and their last session repeats at the end."""
    count = min(speakers, len(library))
    return [Talker(tuple(range(first, len(library), count)), first / count) for first in range(count)]
