from trio_stt.dialects.events import Transcript, Translation
from trio_stt.transcribe.bilingual import PATIENCE_S, Bilingual


def final(number: int, stream: str = "ann", language: str = "en", text: str = "hello", *, is_final: bool = True):
    return Transcript("c", stream, stream, f"{stream}-{number}", text, is_final, language, 0, 1, 16000, 1.0)


def translation(number: int, language: str = "pt", stream: str = "ann") -> Translation:
    return Translation("c", stream, stream, f"{stream}-{number}", f"olá {number}", True, "en", language, 1.0)


def told(subject: Bilingual, now_s: float = 0.0) -> list[tuple[str, dict[str, str]]]:
    return [(each.transcript.segment_id, dict(each.translations)) for each in subject.ready(now_s)]


def test_a_final_waits_for_all_its_translations():
    subject = Bilingual(["pt", "de"])
    subject.final(final(1), 0)
    subject.translation(translation(1))
    assert told(subject) == []
    subject.translation(translation(1, "de"))
    assert told(subject) == [("ann-1", {"pt": "olá 1", "de": "olá 1"})]
    assert told(subject) == []


def test_what_is_said_in_the_language_asked_for_or_without_words_waits_for_nothing():
    subject = Bilingual(["pt-BR"])
    subject.final(final(1, language="pt"), 0)
    subject.final(final(2, text=""), 0)
    subject.final(final(3, is_final=False), 0)
    assert len(told(subject)) == 3


def test_order_is_kept():
    subject = Bilingual(["pt"])
    subject.final(final(1), 0)
    subject.final(final(1, "bob"), 0)
    subject.translation(translation(1, stream="bob"))
    assert told(subject) == []
    subject.translation(translation(1))
    assert [segment for segment, _ in told(subject)] == ["ann-1", "bob-1"]


def test_a_later_translation_of_the_stream_shows_that_an_earlier_one_never_comes():
    subject = Bilingual(["pt"])
    subject.final(final(1), 0)
    subject.final(final(2), 0)
    subject.translation(translation(2))
    assert told(subject) == [("ann-1", {}), ("ann-2", {"pt": "olá 2"})]


def test_patience_ends():
    subject = Bilingual(["pt"])
    subject.final(final(1), 10)
    assert told(subject, 10 + PATIENCE_S - 0.1) == []
    assert told(subject, 10 + PATIENCE_S) == [("ann-1", {})]


def test_while_there_is_no_connection_patience_does_not_end():
    subject = Bilingual(["pt"])
    subject.final(final(1), 10)
    subject.wait_anew(60)
    assert told(subject, 60 + PATIENCE_S - 0.1) == []
    subject.translation(translation(1))
    assert told(subject, 60 + PATIENCE_S) == [("ann-1", {"pt": "olá 1"})]


def test_once_the_server_cannot_translate_nothing_waits_until_it_can_again():
    subject = Bilingual(["pt"])
    subject.final(final(1), 0)
    subject.give_up()
    subject.final(final(2), 0)
    assert told(subject) == [("ann-1", {}), ("ann-2", {})]
    subject.translation(translation(2))  # it does come
    subject.final(final(3), 0)
    assert told(subject) == []
