import miniaudio
import numpy as np
import pytest
import trio

from trio_stt.transcribe.microphone import BLOCK_MS, MAX_HELD_S, Microphone, list_microphones, open_microphone
from trio_stt.transcribe.sound import SourceError

NULL = [miniaudio.Backend.NULL]


def test_microphones_are_listed_by_name():
    assert list_microphones(NULL) == ["NULL Capture Device"]


async def test_sound_comes_in_blocks_until_stopped():
    async with open_microphone(backends=NULL) as microphone:
        heard = 0
        with trio.fail_after(5):
            async for block in microphone.blocks():
                assert block.dtype == np.int16
                heard += len(block)
                if heard >= 3200:
                    microphone.stop()
    assert heard >= 3200
    assert microphone.lost_s == 0


async def test_a_microphone_is_chosen_by_a_part_of_its_name():
    async with open_microphone("null capture", NULL) as microphone:
        assert microphone.backend == "Null"


async def test_an_unknown_microphone_is_refused_with_the_names_that_exist():
    with pytest.raises(SourceError, match=r"No microphone has 'studio' in its name\. .*'NULL Capture Device'"):
        async with open_microphone("studio", NULL):
            pass


async def test_sound_that_nobody_takes_is_bounded_and_counted():
    microphone = Microphone("test")
    block = np.zeros(16 * BLOCK_MS, np.int16)
    for _ in range(MAX_HELD_S * 1000 // BLOCK_MS + 10):
        microphone._take(block)
    assert microphone.lost_s == pytest.approx(10 * BLOCK_MS / 1000)
    microphone.stop()
    microphone._take(block)
    assert sum([len(block) async for block in microphone.blocks()]) == MAX_HELD_S * 16000
