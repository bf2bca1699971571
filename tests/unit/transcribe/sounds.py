"""Makes sound files with known content."""

import av
import numpy as np


def tone(seconds, rate, hertz=440.0):
    return (8000 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.int16)


def write_sound(target, samples, rate, *, container, codec, channels=1, start_s=0.0, picture=False):
    """Writes mono `samples` (the same in each channel) with FFmpeg; `start_s` later than a picture, if there is one."""
    layout = {1: "mono", 2: "stereo"}[channels]
    with av.open(target, "w", format=container) as output:
        if picture:
            video = output.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
        stream = output.add_stream(codec, rate=rate, layout=layout)
        if picture:
            for number in range(10):
                image = av.VideoFrame(64, 64, "yuv420p")
                image.pts = number
                output.mux(video.encode(image))
            output.mux(video.encode(None))
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate, frame_size=stream.frame_size)
        frame = av.AudioFrame.from_ndarray(np.repeat(samples, channels).reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate = rate
        frame.pts = round(start_s * rate)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
