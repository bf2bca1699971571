"""What is sent of one voice's captions, in which order and under which names."""

from hypothesis import given
from hypothesis import strategies as st

from agent.caption_line import REMEMBERED_SEGMENTS, Caption, CaptionLine


def finals(line: CaptionLine) -> list[Caption]:
    found = []
    while (caption := line.next_final) is not None:
        found.append(caption)
        line.published()
    return found


def hear(line: CaptionLine, segment: str, text: str, *, is_final: bool = False) -> None:
    line.heard(segment, text, "en", is_final=is_final)


def test_unfinished_texts_replace_each_other_and_their_final_has_their_name():
    line = CaptionLine()
    for text in ("good", "good mor"):
        hear(line, "s-1", text)
    shown = line.take_unfinished()
    assert (shown.text, shown.is_final, shown.language, shown.is_translation) == ("good mor", False, "en", False)
    assert line.take_unfinished() is None
    hear(line, "s-1", "good morn")
    hear(line, "s-1", "good morning", is_final=True)
    assert line.take_unfinished() is None, "its final is there"
    assert finals(line) == [Caption(shown.segment_id, "good morning", True, "en", False)]
    assert line.is_empty


def test_what_comes_after_a_final_of_it_changes_nothing():
    line = CaptionLine()
    hear(line, "s-1", "yes", is_final=True)
    hear(line, "s-1", "ye")
    hear(line, "s-1", "yes", is_final=True)
    assert [each.text for each in finals(line)] == ["yes"]
    assert line.is_empty


def test_segments_have_different_names_and_nothing_is_shown_of_an_empty_one():
    line = CaptionLine()
    for number in range(3):
        hear(line, f"s-{number}", "" if number == 1 else "word", is_final=True)
    found = finals(line)
    assert len({each.segment_id for each in found}) == len(found) == 2


def test_what_was_shown_of_an_empty_utterance_is_taken_back():
    line = CaptionLine()
    hear(line, "s-1", "uh")
    shown = line.take_unfinished()
    hear(line, "s-1", "", is_final=True)
    assert finals(line) == [Caption(shown.segment_id, "", True, "en", False)]


def test_what_the_server_gave_up_goes_on_under_the_same_name_in_the_stream_that_follows():
    line = CaptionLine()
    hear(line, "old-4", "good mor")
    shown = line.take_unfinished()
    hear(line, "new-1", "good")
    assert line.take_unfinished().segment_id == shown.segment_id
    hear(line, "new-1", "good morning", is_final=True)
    hear(line, "new-2", "to all", is_final=True)
    first, second = finals(line)
    assert first.segment_id == shown.segment_id != second.segment_id
    # The lost stream's final comes after all, from another connection.
    hear(line, "old-4", "good", is_final=True)
    assert finals(line)[0].segment_id not in (first.segment_id, second.segment_id)


def test_translations_have_names_of_their_own_and_one_final_each():
    line = CaptionLine()
    line.translated("s-1", "Bom", "pt", is_final=False)
    line.translated("s-1", "Gut", "de", is_final=False)
    early = {caption.language: caption for caption in (line.take_unfinished(), line.take_unfinished())}
    hear(line, "s-1", "good morning", is_final=True)
    for text in ("Bom dia.", "Bom dia!"):
        line.translated("s-1", text, "pt", is_final=True)
    line.translated("s-1", "B", "pt", is_final=False)
    said, translated = finals(line)
    assert translated == Caption(f"{said.segment_id}-pt", "Bom dia.", True, "pt", True)
    assert early["pt"].segment_id == translated.segment_id
    assert early["de"].segment_id == f"{said.segment_id}-de"
    assert line.take_unfinished() is None


def test_giving_up_takes_back_what_is_shown():
    line = CaptionLine()
    line.give_up()
    assert line.is_empty
    hear(line, "s-1", "good mor")
    shown = line.take_unfinished()
    line.give_up()
    assert finals(line) == [Caption(shown.segment_id, "", True, "", False)]
    hear(line, "s-2", "again", is_final=True)
    assert finals(line)[0].segment_id != shown.segment_id


def test_it_remembers_no_more_than_it_must():
    line = CaptionLine()
    for number in range(20 * REMEMBERED_SEGMENTS):
        hear(line, f"s-{number}", "w", is_final=True)
        line.translated(f"s-{number}", "w", "pt", is_final=True)
        finals(line)
    assert max(len(each) for each in (line._names, line._ended, line._used)) <= 4 * REMEMBERED_SEGMENTS


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from(["", "a", "b"]), st.booleans(), st.sampled_from(["", "pt"])),
        max_size=30,
    )
)
def test_every_name_has_one_final_at_most_and_each_text_of_a_final_segment_is_said_once(steps):
    line = CaptionLine()
    given_finals, sent = [], []
    for segment, text, is_final, language in steps:
        if language:
            line.translated(f"s-{segment}", text, language, is_final=is_final)
        else:
            hear(line, f"s-{segment}", text, is_final=is_final)
        if is_final and (segment, language) not in [key for key, _ in given_finals]:
            given_finals.append(((segment, language), text))
        if (unfinished := line.take_unfinished()) is not None:
            sent.append(unfinished)
        sent += finals(line)
    names = [each.segment_id for each in sent if each.is_final]
    assert len(names) == len(set(names))
    said = [each.text for each in sent if each.is_final and each.text and not each.is_translation]
    assert said == [text for (_, language), text in given_finals if text and not language]
    for place, each in enumerate(sent):
        if each.is_final:
            assert each.segment_id not in {later.segment_id for later in sent[place + 1 :]}
