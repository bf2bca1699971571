import contextlib
import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from sounds import tone, write_sound

from trio_stt.transcribe.media import open_media
from trio_stt.transcribe.pipe import Pipe
from trio_stt.transcribe.sound import SourceError


def read(source, **options):
    with open_media(source, "the sound", **options) as media:
        return np.concatenate([np.zeros(0, np.int16), *media.blocks]), media.duration_s


def pitch(samples, rate=16000):
    return np.argmax(np.abs(np.fft.rfft(samples[: len(samples) // 2 * 2]))) * rate / (len(samples) // 2 * 2)


@pytest.mark.parametrize(
    ("container", "codec", "rate", "channels"),
    [
        ("wav", "pcm_s16le", 16000, 1),
        ("wav", "pcm_f32le", 44100, 2),
        ("wav", "pcm_mulaw", 8000, 1),
        ("flac", "flac", 48000, 2),
        ("mp3", "libmp3lame", 44100, 2),
        ("ogg", "libopus", 48000, 1),
        ("mp4", "aac", 44100, 2),
        ("matroska", "flac", 32000, 1),
    ],
)
def test_any_format_becomes_mono_16_khz(tmp_path, container, codec, rate, channels):
    write_sound(str(tmp_path / "sound"), tone(2, rate), rate, container=container, codec=codec, channels=channels)
    samples, duration_s = read(tmp_path / "sound")
    assert len(samples) == pytest.approx(32000, abs=1700)  # lossy codecs pad by up to a frame
    assert duration_s == pytest.approx(2, abs=0.11)
    assert pitch(samples) == pytest.approx(440, abs=2)
    assert np.abs(samples[8000:24000]).max() == pytest.approx(8000, rel=0.1)


def test_samples_at_16_khz_come_through_unchanged(tmp_path):
    samples = np.random.default_rng(1).integers(-32768, 32768, 50_001).astype(np.int16)
    write_sound(str(tmp_path / "sound"), samples, 16000, container="wav", codec="pcm_s16le")
    np.testing.assert_array_equal(read(tmp_path / "sound")[0], samples)


def test_the_sound_of_a_video_keeps_its_place_under_the_picture(tmp_path):
    write_sound(
        str(tmp_path / "film"), tone(1, 16000), 16000, container="matroska", codec="flac", start_s=0.5, picture=True
    )
    samples, _ = read(tmp_path / "film")
    assert len(samples) == pytest.approx(24000, abs=50)
    assert not samples[:7900].any()


@contextlib.contextmanager
def open_pipe():
    """Both ends of a pipe."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb", buffering=0) as sink:
        yield Pipe(source), sink


@contextlib.contextmanager
def feed(data):
    """A pipe out of which `data` can be read once, as from standard input."""

    def write():
        with sink:
            sink.write(data)

    with open_pipe() as (source, sink):
        writer = threading.Thread(target=write)
        writer.start()
        yield source
        writer.join()


@pytest.mark.parametrize(("container", "codec"), [("wav", "pcm_s16le"), ("flac", "flac"), ("mp3", "libmp3lame")])
def test_a_pipe_is_read_like_a_file(container, codec):
    data = io.BytesIO()
    write_sound(data, tone(2, 16000), 16000, container=container, codec=codec)
    with feed(data.getvalue()) as pipe:
        samples, _ = read(pipe)
    assert len(samples) == pytest.approx(32000, abs=1700)


def test_headerless_samples_on_a_pipe_are_read_at_the_given_rate():
    with feed(tone(2, 8000).tobytes()) as pipe:
        samples, _ = read(pipe, raw_rate=8000)
    assert len(samples) == pytest.approx(32000, abs=2)
    assert pitch(samples) == pytest.approx(440, abs=2)


def test_a_live_pipe_is_not_held_back():
    with open_pipe() as (source, microphone):
        microphone.write(tone(1, 16000).tobytes())
        with open_media(source, "standard input", raw_rate=16000) as media:
            heard = 0
            while heard < 15000:  # more is not written before this much was read
                heard += len(next(media.blocks))


def test_a_stopped_pipe_ends_although_its_writer_does_not():
    with open_pipe() as (source, microphone):
        microphone.write(tone(1, 16000).tobytes())
        with open_media(source, "standard input", raw_rate=16000) as media:
            next(media.blocks)
            threading.Timer(0.05, source.stop).start()
            for _ in media.blocks:
                pass


def test_a_file_cut_short_gives_what_is_there(tmp_path):
    write_sound(str(tmp_path / "whole"), tone(2, 16000), 16000, container="flac", codec="flac")
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "part").write_bytes(whole[: len(whole) // 2])
    samples, _ = read(tmp_path / "part")
    assert 4000 < len(samples) < 24000


def test_damage_in_the_middle_of_a_file_is_passed_over(tmp_path):
    write_sound(str(tmp_path / "whole"), tone(4, 16000), 16000, container="mp3", codec="libmp3lame")
    data = bytearray((tmp_path / "whole").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 800] = os.urandom(800)
    (tmp_path / "damaged").write_bytes(data)
    assert len(read(tmp_path / "damaged")[0]) > 40000


@pytest.mark.parametrize("content", [b"", b"these are words, not sounds\n" * 50, bytes(5000)])
def test_what_is_no_sound_is_refused_with_a_hint(tmp_path, content):
    (tmp_path / "note").write_bytes(content)
    with pytest.raises(SourceError, match="the sound is not a sound or video file"):
        read(tmp_path / "note")


def test_a_video_without_sound_is_refused(tmp_path):
    import av

    with av.open(str(tmp_path / "silent.mkv"), "w") as output:
        video = output.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
        output.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
        output.mux(video.encode(None))
    with pytest.raises(SourceError, match="no sound"):
        read(tmp_path / "silent.mkv")


def test_a_missing_file_is_named():
    with pytest.raises(SourceError, match="the sound cannot be read: No such file"):
        read(Path("/nowhere/at all.wav"))


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(SourceError, match="Is a directory"):
        read(tmp_path)
