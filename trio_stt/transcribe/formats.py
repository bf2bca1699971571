"""What `transcribe` writes: plain text, JSON lines, SubRip or WebVTT. A format makes text of one utterance."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Protocol

from trio_stt.dialects.events import Transcript
from trio_stt.transcribe.bilingual import Captioned
from trio_stt.transcribe.captions import Caption, TimedWord, add_translation, lay_out, plain, spread_words


class CaptionFormat(Protocol):
    """Writes the transcripts of one or more sources, one after another."""

    needs_words: bool
    """Whether it asks the server for word times."""

    def header(self) -> str:
        """What stands before everything."""

    def caption(self, source: str, caption: Captioned, offset_s: float) -> str:
        """One utterance of `source`; the sources before it lasted `offset_s` seconds. Empty: nothing to write."""


class TextFormat:
    """One utterance a line, its translations below it."""

    needs_words = False

    def __init__(self, *, speakers: bool) -> None:
        """`speakers`: each line begins with who said it."""
        self._speakers = speakers

    def header(self) -> str:
        """Nothing."""
        return ""

    def caption(self, source: str, caption: Captioned, offset_s: float) -> str:
        """The text and a line feed; each translation behind its language."""
        text = plain(caption.transcript.text)
        if not text:
            return ""
        speaker = f"{plain(caption.transcript.client_id)}: " if self._speakers else ""
        lines = [speaker + text, *(f"[{tag}] {plain(each)}" for tag, each in caption.translations.items())]
        return "".join(f"{line}\n" for line in lines)


class JsonFormat:
    """One JSON object a line for each utterance (JSON Lines); times are those of its own source."""

    def __init__(self, *, words: bool, translations: bool) -> None:
        self.needs_words = words
        self._translations = translations

    def header(self) -> str:
        """Nothing."""
        return ""

    def caption(self, source: str, caption: Captioned, offset_s: float) -> str:
        """An object with the source, times in seconds, the text; words and translations where they were asked for."""
        transcript = caption.transcript
        if not transcript.text:
            return ""
        fields: dict[str, object] = {
            "source": source,
            "client_id": transcript.client_id,
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
        if self._translations:
            fields["translations"] = dict(caption.translations)
        return json.dumps(fields, ensure_ascii=False) + "\n"


class SrtFormat:
    """SubRip. Further sources go on where the one before ended. The format has no escapes, and no arrow in a text."""

    needs_words = True

    def __init__(self) -> None:
        self._count = 0

    def header(self) -> str:
        """Nothing."""
        return ""

    def caption(self, source: str, caption: Captioned, offset_s: float) -> str:
        """The utterance's captions, numbered on; translations stand below the words."""
        return "".join(self._cue(each) for each in _captions(caption, offset_s))

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

    def caption(self, source: str, caption: Captioned, offset_s: float) -> str:
        """The utterance's captions; translations stand below the words."""
        return "".join(
            f"{_times(each, decimal='.')}\n{_escaped(each.lines)}\n\n" for each in _captions(caption, offset_s)
        )


def caption_format(name: str, *, words: bool, speakers: bool = False, translations: bool = False) -> CaptionFormat:
    """The format called text, json, srt or vtt.

    `words`: JSON tells the times of words; `speakers`: text tells who speaks; `translations`: JSON has them in a field.
    """
    formats: dict[str, CaptionFormat] = {
        "text": TextFormat(speakers=speakers),
        "json": JsonFormat(words=words, translations=translations),
        "srt": SrtFormat(),
        "vtt": VttFormat(),
    }
    return formats[name]


def _start_s(transcript: Transcript) -> float:
    return transcript.start_sample / transcript.sample_rate


def _end_s(transcript: Transcript) -> float:
    return transcript.end_sample / transcript.sample_rate


def _captions(caption: Captioned, offset_s: float) -> list[Caption]:
    captions = lay_out(_timed_words(caption.transcript, offset_s))
    for text in caption.translations.values():
        captions = add_translation(captions, plain(text))
    return captions


def _timed_words(transcript: Transcript, offset_s: float) -> Sequence[TimedWord]:
    if not transcript.words:
        return spread_words(plain(transcript.text), _start_s(transcript) + offset_s, _end_s(transcript) + offset_s)
    # The text may have capitals and marks that the recognised words have not: the same words, in the same order.
    texts = transcript.text.split()
    if len(texts) != len(transcript.words):
        texts = [word.text for word in transcript.words]
    return [
        TimedWord(plain(text), word.start + offset_s, word.end + offset_s)
        for text, word in zip(texts, transcript.words, strict=True)
    ]


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
