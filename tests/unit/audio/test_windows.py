import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_stt.audio.samples import WINDOW_SAMPLES, Windows, joined


@settings(deadline=None)
@given(st.lists(st.integers(0, 2000), max_size=20))
def test_windows_and_their_rest_are_the_chunks_in_order(lengths: list[int]) -> None:
    sound = np.arange(sum(lengths), dtype=np.int16)
    windows = Windows()
    pieces = []
    for begin, length in zip(np.cumsum([0, *lengths]), lengths, strict=False):
        pieces.append(windows.push(sound[begin : begin + length]))
        assert len(pieces[-1]) % WINDOW_SAMPLES == 0
    rest = windows.take_rest()
    assert len(rest) < WINDOW_SAMPLES
    assert np.array_equal(joined([*pieces, rest]), sound)
    assert not len(windows.take_rest())
