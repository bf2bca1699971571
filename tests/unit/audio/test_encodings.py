import numpy as np
import pytest

from trio_stt.audio.formats import decode, sample_bytes


def test_pcm_is_little_endian() -> None:
    assert decode(b"\x01\x00\xff\xff\x00\x80", "pcm_s16le").tolist() == [1, -1, -32768]


@pytest.mark.parametrize(
    ("encoding", "samples"),
    [
        # ITU-T G.711: the loudest and the quietest code of either sign.
        ("mulaw", {0x80: 32124, 0x00: -32124, 0xFF: 0, 0x7F: 0, 0xFE: 8, 0x7E: -8}),
        ("alaw", {0xAA: 32256, 0x2A: -32256, 0xD5: 8, 0x55: -8, 0xD4: 24}),
    ],
)
def test_g711_codes_mean_what_the_standard_says(encoding: str, samples: dict[int, int]) -> None:
    assert decode(bytes(samples), encoding).tolist() == list(samples.values())


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_g711_is_symmetric_and_uses_every_code(encoding: str) -> None:
    decoded = decode(bytes(range(256)), encoding).astype(np.int32)
    assert np.array_equal(decoded[:128], -decoded[128:])
    assert len(set(decoded.tolist())) >= 255


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="half a sample"):
        decode(b"\x00\x00\x00", "pcm_s16le")


def test_an_unknown_encoding_is_named() -> None:
    with pytest.raises(ValueError, match=r"'opus'.*pcm_s16le"):
        sample_bytes("opus")


@pytest.mark.parametrize("encoding", ["pcm_s16le", "mulaw", "alaw"])
def test_a_payload_holds_a_sample_for_each_sample_bytes(encoding: str) -> None:
    assert len(decode(bytes(480), encoding)) == 480 // sample_bytes(encoding)
    assert decode(b"", encoding).dtype == np.int16
