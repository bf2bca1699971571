"""What `transcribe` writes: plain text, JSON lines, SubRip or WebVTT. A format makes text of one transcript."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Protocol

from trio_stt.dialects.events import Transcript
from trio_stt.transcribe.captions import Caption, TimedWord, lay_out, plain, spread_words


class CaptionFormat(Protocol):
    """Writes the transcripts of one or more sources, one after another."""

    needs_words: bool
    """Whether it asks the server for word times."""

    def header(self) -> str:
        """What stands before everything."""

    def transcript(self, source: str, transcript: Transcript, offset_s: float) -> str:
        """One transcript of `source`; the sources before it lasted `offset_s` seconds. Empty: nothing to write."""


class TextFormat:
    """One utterance a line."""

    needs_words = False

    def header(self) -> str:
        """Nothing."""
        return ""

    def transcript(self, source: str, transcript: Transcript, offset_s: float) -> str:
        """The text and a line feed."""
        text = plain(transcript.text)
        return f"{text}\n" if text else ""


class JsonFormat:
    """One JSON object a line for each utterance (JSON Lines); times are those of its own source."""

    def __init__(self, *, words: bool) -> None:
        self.needs_words = words

    def header(self) -> str:
        """Nothing."""
        return ""

    def transcript(self, source: str, transcript: Transcript, offset_s: float) -> str:
        """An object with the source, times in seconds, the text, and the words where they were asked for."""
        if not transcript.text:
            return ""
        fields: dict[str, object] = {
            "source": source,
            "segment_id": transcript.segment_id,
            "start": _start_s(transcript),
            "end": _end_s(transcript),
            "text": transcript.text,
            "language": transcript.language,
            "is_final": transcript.is_final,
        }
        if self.needs_words:
            fields["words"] = [
                {"word": word.text, "start": word.start, "end": word.end, "conf": word.confidence}
                for word in transcript.words
            ]
        return json.dumps(fields, ensure_ascii=False) + "\n"


class SrtFormat:
    """SubRip. Further sources go on where the one before ended. The format has no escapes, and no arrow in a text."""

    needs_words = True

    def __init__(self) -> None:
        self._count = 0

    def header(self) -> str:
        """Nothing."""
        return ""

    def transcript(self, source: str, transcript: Transcript, offset_s: float) -> str:
        """The utterance's captions, numbered on."""
        return "".join(self._cue(caption) for caption in _captions(transcript, offset_s))

    def _cue(self, caption: Caption) -> str:
        self._count += 1
        text = re.sub("--+>", "->", "\n".join(caption.lines))
        return f"{self._count}\n{_times(caption, decimal=',')}\n{text}\n\n"


class VttFormat:
    """WebVTT. Further sources go on where the one before ended."""

    needs_words = True

    def header(self) -> str:
        """The format's first line."""
        return "WEBVTT\n\n"

    def transcript(self, source: str, transcript: Transcript, offset_s: float) -> str:
        """The utterance's captions."""
        return "".join(
            f"{_times(caption, decimal='.')}\n{_escaped(caption.lines)}\n\n"
            for caption in _captions(transcript, offset_s)
        )


def caption_format(name: str, *, words: bool) -> CaptionFormat:
    """The format called text, json, srt or vtt; `words`: JSON tells the times of words."""
    formats: dict[str, CaptionFormat] = {
        "text": TextFormat(),
        "json": JsonFormat(words=words),
        "srt": SrtFormat(),
        "vtt": VttFormat(),
    }
    return formats[name]


def _start_s(transcript: Transcript) -> float:
    return transcript.start_sample / transcript.sample_rate


def _end_s(transcript: Transcript) -> float:
    return transcript.end_sample / transcript.sample_rate


def _captions(transcript: Transcript, offset_s: float) -> list[Caption]:
    return lay_out(_timed_words(transcript, offset_s))


def _timed_words(transcript: Transcript, offset_s: float) -> Sequence[TimedWord]:
    if not transcript.words:
        return spread_words(plain(transcript.text), _start_s(transcript) + offset_s, _end_s(transcript) + offset_s)
    return [TimedWord(plain(word.text), word.start + offset_s, word.end + offset_s) for word in transcript.words]


def _escaped(lines: Sequence[str]) -> str:
    """WebVTT's cue text escapes: https://www.w3.org/TR/webvtt1/#webvtt-cue-text-span."""
    return "\n".join(lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _times(caption: Caption, decimal: str) -> str:
    """Both formats' times. A caption stands for at least a millisecond."""
    start_ms = round(caption.start_s * 1000)
    end_ms = max(round(caption.end_s * 1000), start_ms + 1)
    return f"{_time(start_ms, decimal)} --> {_time(end_ms, decimal)}"


def _time(at_ms: int, decimal: str) -> str:
    seconds, ms = divmod(at_ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{decimal}{ms:03}"
