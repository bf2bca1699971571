import io

import pytest
from rich.console import Console

from trio_stt.transcribe import display as display_module
from trio_stt.transcribe.display import Display


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(display_module, "REFRESH_S", 0.0)
    return io.StringIO()


def on_terminal(terminal):
    return Display(Console(file=terminal, force_terminal=True, width=40, legacy_windows=False))


def test_a_terminal_sees_the_progress_and_the_words_so_far(terminal):
    display = on_terminal(terminal)
    with display.showing("a.wav", 125):
        display.progress(62.5)
        display.partial("he was not")
    painted = terminal.getvalue()
    assert "a.wav" in painted
    assert "1:02 of 2:05" in painted
    assert "he was not" in painted


def test_of_a_long_path_the_end_of_the_name_is_seen_and_the_bar_has_room(terminal):
    display = Display(Console(file=terminal, force_terminal=True, width=80, legacy_windows=False))
    with display.showing("/music/folder/" + "sense_and_sensibility_01_austen-0880.wav", 125):
        display.progress(62.5)
    painted = terminal.getvalue()
    assert "…lity_01_austen-0880.wav" in painted
    assert "━━━" in painted
    assert "1:02 of 2:05" in painted


def test_of_long_words_so_far_the_end_is_seen(terminal):
    display = on_terminal(terminal)
    with display.showing("a.wav", None):
        display.partial("the beginning " + "and so on " * 10 + "the end")
    painted = terminal.getvalue()
    assert "the end" in painted
    assert "the beginning" not in painted


def test_hostile_text_cannot_steer_the_terminal(terminal):
    display = on_terminal(terminal)
    with display.showing("evil\x1b]0;title\x07.wav", None):
        display.partial("\x1b[2Jgone [bold]not markup[/bold]")
        display.message("see \x1b[31mred")
    assert "\x1b]0;" not in terminal.getvalue()
    assert "\x1b[2J" not in terminal.getvalue()
    assert "\x1b[31m" not in terminal.getvalue()
    assert "[bold]not markup[/bold]" in terminal.getvalue()


def test_the_picture_is_away_while_results_are_written(terminal):
    display = on_terminal(terminal)
    with display.showing("a.wav", None):
        display.partial("first words")
        with display.making_room():
            before = len(terminal.getvalue())
            display.partial("second words")
            assert len(terminal.getvalue()) == before
        display.partial("third words")
    assert "third words" in terminal.getvalue()


def test_without_a_terminal_only_messages_are_written():
    file = io.StringIO()
    display = Display(Console(file=file, width=40))
    with display.showing("a.wav", 10):
        display.progress(5)
        display.partial("he was")
        display.message("Error: something that is longer than the forty columns of this file.")
    assert file.getvalue() == "Error: something that is longer than the forty columns of this file.\n"
