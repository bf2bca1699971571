import pytest

from trio_stt.recognition.decoders import chunk_ms


@pytest.mark.parametrize(
    ("speaking", "threads", "expected"),
    [(0, 2, 100), (1, 2, 100), (4, 2, 100), (5, 2, 200), (10, 2, 300), (16, 2, 400), (100, 2, 400), (10, 8, 100)],
)
def test_chunks_grow_with_the_speakers_that_share_a_thread(speaking, threads, expected):
    assert chunk_ms(100, speaking, threads) == expected


def test_a_chunk_is_never_shorter_than_was_asked_for():
    assert chunk_ms(1000, 1, 2) == chunk_ms(1000, 50, 2) == 1000
