"""Which voice speaks what."""

import pytest

from agent.tts.voices import ACCENTS, Voices, accent_of
from trio_stt.models.kokoro import load_kokoro

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
