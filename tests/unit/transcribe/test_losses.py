from trio_stt.transcribe.losses import HOPELESS_AFTER_S, MOST_LOSSES, Losses


def connections(losses: Losses, count: int, held_s: float, begin_s: float = 0.0) -> list[bool]:
    """What is said of each loss of connections that held so long, one after the other."""
    verdicts = []
    for number in range(count):
        losses.connected(begin_s + number * held_s)
        verdicts.append(losses.lost(begin_s + (number + 1) * held_s))
    return verdicts


def test_a_server_that_is_lost_again_and_again_is_hopeless_after_a_while():
    assert connections(Losses(), 8, HOPELESS_AFTER_S / 6) == [False] * 6 + [True] * 2


def test_a_few_losses_may_be_chance_however_far_apart():
    assert connections(Losses(), MOST_LOSSES, HOPELESS_AFTER_S * 0.9) == [False] * MOST_LOSSES


def test_who_captions_something_begins_anew():
    losses = Losses()
    connections(losses, 7, HOPELESS_AFTER_S / 6)
    losses.progress()
    assert connections(losses, 6, HOPELESS_AFTER_S / 6, 100.0) == [False] * 6


def test_a_connection_that_holds_with_nothing_to_caption_is_no_bad_one():
    assert connections(Losses(), 10, HOPELESS_AFTER_S) == [False] * 10
