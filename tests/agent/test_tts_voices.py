"""Which voice speaks what."""

import re
from pathlib import Path

import pytest

from agent.spoken_tracks import MOST_TEXTS, QUEUE_MS, WITHIN_S
from agent.tts.sentences import LONGEST_PIECE
from agent.tts.speech import SpeechStatus
from agent.tts.synthesis import ANSWER_S, FIRST_PAUSE_S, IDLE_S, MOST_PAUSE_S, MOST_WAITING
from agent.tts.synthesiser import NICE
from agent.tts.voices import ACCENTS, Voices, accent_of
from trio_stt.models.kokoro import load_kokoro

ROOT = Path(__file__).resolve().parents[2]

ALL = Voices(load_kokoro().voices)


def test_languages_are_those_whose_voices_are_installed():
    assert ALL.languages() == {"en", "en-gb", "es", "fr", "hi", "it", "pt"}
    assert Voices(["pm_alex", "zf_xiaobei", "jf_alpha", "7", ""]).languages() == {"pt"}
    assert Voices([]).languages() == frozenset()
    assert Voices(["bm_lewis"]).languages() == {"en", "en-gb"}


@pytest.mark.parametrize(
    ("language", "wished", "voice"),
    [
        ("en", None, "af_heart"),
        ("en-US", None, "af_heart"),
        ("en-GB", None, "bf_emma"),
        ("EN-gb", None, "bf_emma"),
        ("pt", None, "pf_dora"),
        ("pt-BR", None, "pf_dora"),
        ("es-419", None, "ef_dora"),
        ("fr", None, "ff_siwis"),
        ("en", "bm_lewis", "bm_lewis"),
        ("en-GB", "am_adam", "am_adam"),
        ("pt", "am_adam", None),
        ("pt", "pm_nobody", None),
        ("ja", None, None),
        ("ja", "jf_alpha", None),
        ("zh", None, None),
        ("de", None, None),
        ("", None, None),
    ],
)
def test_the_voice_for_a_language(language, wished, voice):
    assert ALL.voice_for(language, wished) == voice


def test_preferred_voices_take_the_places_of_the_usual_ones():
    voices = Voices(load_kokoro().voices, ["pm_alex", "am_adam", "am_eric", "nobody"])
    assert [voices.voice_for(tag) for tag in ("pt", "en", "en-GB", "es")] == [
        "pm_alex",
        "am_adam",
        "bf_emma",
        "ef_dora",
    ]


def test_where_the_usual_voice_is_not_installed_another_of_its_language_speaks():
    assert Voices(["af_sky", "af_alloy"]).voice_for("en") == "af_alloy"


def test_every_usual_voice_is_one_of_the_models():
    assert {accent.voice for accent in ACCENTS.values()} <= set(load_kokoro().voices)
    assert all(accent_of(accent.voice) == accent for accent in ACCENTS.values())


def test_the_page_says_which_voices_speak_what_and_how_texts_may_go():
    page = (ROOT / "docs/tts.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| [^|]+: `([a-zA-Z-]+)`[^|]* \|[^|]+\| `(\w+)` \|$", page, re.MULTILINE))
    assert {tag.lower(): voice for tag, voice in rows.items()} == {a.language: a.voice for a in ACCENTS.values()}
    counts = dict(re.findall(r"`(?:en|en-GB)` \| (\d+), `([ab])f_", page))
    names = load_kokoro().voices
    assert {int(count): letter for count, letter in counts.items()} == {
        sum(name.startswith(letter) for name in names): letter for letter in "ab"
    }
    for letter in "efhip":
        assert all(f"`{name}`" in page for name in names if name.startswith(letter))
    statuses = page.partition("| Status |")[2].partition("##")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", statuses, re.MULTILINE)) == {status.value for status in SpeechStatus}
    assert f"at most {LONGEST_PIECE} characters" in page
    assert f"within {WITHIN_S:.0f} s" in page
    assert f"more than {MOST_TEXTS}." in page
    assert f"no more than {MOST_WAITING} wait" in page
    assert f"{QUEUE_MS / 1000} s" in page
    assert f"niced by {NICE}," in page
    assert f"after {FIRST_PAUSE_S} s, then {2 * FIRST_PAUSE_S:.0f} s, up to {MOST_PAUSE_S:.0f} s" in page
    assert (ANSWER_S, IDLE_S) == (120, 600)
