import json

import pytest

from trio_stt.dialects.events import Transcript, Word
from trio_stt.transcribe.bilingual import Captioned
from trio_stt.transcribe.formats import caption_format


def transcript(text, start_s, end_s, words=(), is_final=True):
    return Transcript(
        "call",
        "me",
        "stream",
        "segment",
        text,
        is_final,
        "en",
        round(start_s * 16000),
        round(end_s * 16000),
        16000,
        0.0,
        words,
    )


def written(name, *transcripts, offset_s=0.0, translated=(), **options):
    form = caption_format(name, **{"words": False, **options})
    captions = (Captioned(each, dict(translated)) for each in transcripts)
    return form.header() + "".join(form.caption("a.wav", each, offset_s) for each in captions)


def test_text_is_one_line_for_each_utterance():
    assert (
        written("text", transcript("hello there", 0, 1), transcript("", 1, 2), transcript("bye\n", 2, 3))
        == "hello there\nbye\n"
    )


def test_srt_is_numbered_and_timed_with_commas():
    assert written("srt", transcript("hello", 1.5, 2.25), transcript("bye", 3661.002, 3662)) == (
        "1\n00:00:01,500 --> 00:00:02,250\nhello\n\n2\n01:01:01,002 --> 01:01:02,000\nbye\n\n"
    )


def test_vtt_has_its_header_and_points():
    assert written("vtt", transcript("hello", 1.5, 2.25)) == "WEBVTT\n\n00:00:01.500 --> 00:00:02.250\nhello\n\n"


def test_vtt_without_speech_is_a_valid_empty_file():
    assert written("vtt", transcript("", 0, 1)) == "WEBVTT\n\n"


def test_vtt_escapes_markup_and_arrows():
    shown = written("vtt", transcript("<b>fish & chips</b> --> here", 0, 1)).splitlines()[3]
    assert shown == "&lt;b&gt;fish &amp; chips&lt;/b&gt; --&gt; here"


def test_srt_text_holds_no_arrow_and_no_empty_line():
    cue = written("srt", transcript("left ---> right\n\nnext", 0, 1))
    assert cue == "1\n00:00:00,000 --> 00:00:01,000\nleft -> right next\n\n"


def test_subtitles_use_the_times_of_words():
    words = (Word("hello", 1.25, 1.5, 1.0), Word("there", 4.0, 4.5, 0.9))
    assert written("vtt", transcript("hello there", 1, 5, words)) == (
        "WEBVTT\n\n00:00:01.250 --> 00:00:01.500\nhello\n\n00:00:04.000 --> 00:00:04.500\nthere\n\n"
    )


@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_a_second_source_goes_on_where_the_first_ended(name):
    assert "00:01:41" in written(name, transcript("hello", 1, 2), offset_s=100)


def test_a_caption_stands_for_some_time_even_if_its_word_has_none():
    words = (Word("oh", 1.0, 1.0, 0.3),)
    assert "00:00:01,000 --> 00:00:01,001" in written("srt", transcript("oh", 1, 1.2, words))


def test_a_time_just_below_a_second_is_rounded_up_whole():
    assert "00:00:02,000" in written("srt", transcript("oh", 1.99999, 3))


def test_json_is_an_object_a_line_with_the_sources_own_times():
    lines = written("json", transcript("grüß dich", 1, 2), transcript("so", 2, 3, is_final=False), offset_s=100)
    first, second = map(json.loads, lines.splitlines())
    assert first == {
        "source": "a.wav",
        "client_id": "me",
        "segment_id": "segment",
        "start": 1.0,
        "end": 2.0,
        "text": "grüß dich",
        "language": "en",
        "is_final": True,
    }
    assert second["is_final"] is False
    assert "grüß" in lines


def test_json_tells_words_when_asked():
    words = (Word("hello", 1.25, 1.5, 0.5),)
    assert json.loads(written("json", transcript("hello", 1, 2, words), words=True))["words"] == [
        {"word": "hello", "start": 1.25, "end": 1.5, "conf": 0.5}
    ]


PORTUGUESE = [("pt", "bom dia a todos")]


def test_text_has_translations_below_and_speakers_before():
    assert written("text", transcript("good morning", 0, 1), translated=PORTUGUESE, speakers=True) == (
        "me: good morning\n[pt] bom dia a todos\n"
    )


def test_json_has_translations_by_language():
    (line,) = written("json", transcript("hi", 0, 1), translated=PORTUGUESE, translations=True).splitlines()
    assert json.loads(line)["translations"] == {"pt": "bom dia a todos"}


@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_subtitles_share_a_translation_out_among_their_captions(name):
    words = (Word("good", 0.0, 1.0, 1.0), Word("morning", 4.0, 5.0, 1.0))
    cues = written(name, transcript("good morning", 0, 5, words), translated=PORTUGUESE).split("\n\n")
    assert [cue.splitlines()[-2:] for cue in cues if "-->" in cue] == [["good", "bom dia"], ["morning", "a todos"]]


def test_subtitles_show_the_written_form_at_the_times_of_the_recognised_words():
    words = (Word("good", 0.0, 1.0, 1.0), Word("morning", 4.0, 5.0, 1.0))
    assert "4.000 --> 00:00:05.000\nmorning." in written("vtt", transcript("Good morning.", 0, 5, words))
