"""Prints what a model hears in the known recording: ``python -m trio_stt.models.decode_recording MODEL``.

A process of its own, so that a broken graph may crash libvosk and the model's memory goes back. The recording,
``known_recording.ogg``, is synthetic speech (Kokoro, an Apache-2.0 model): 14 seconds, three English sentences by three
voices. A model of another language hears other words in it, yet the same words with either of its graphs.
"""

from __future__ import annotations

import json
import sys
from importlib import resources
from pathlib import Path

SAMPLE_RATE = 16000
"""Samples a second that the models want."""

_CHUNK_BYTES = SAMPLE_RATE * 2 // 5
_FLUSH = bytes(SAMPLE_RATE)  # half a second of silence brings the last word out


def recording() -> bytes:
    """The known recording: mono signed 16-bit samples at `SAMPLE_RATE`."""
    import av

    samples = bytearray()
    with (
        resources.files(__package__).joinpath("known_recording.ogg").open("rb") as file,
        av.open(file, mode="r") as container,
    ):
        resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        for frame in [*container.decode(audio=0), None]:
            for part in resampler.resample(frame):
                samples += part.to_ndarray().tobytes()
    return bytes(samples)


def heard(model: Path) -> list[str]:
    """The words that the model in folder `model` hears in the recording. May end the process when it is broken."""
    import vosk

    vosk.SetLogLevel(-1)
    recogniser = vosk.KaldiRecognizer(vosk.Model(str(model)), SAMPLE_RATE)
    samples, texts = recording() + _FLUSH, []
    for start in range(0, len(samples), _CHUNK_BYTES):
        if recogniser.AcceptWaveform(samples[start : start + _CHUNK_BYTES]):
            texts.append(json.loads(recogniser.Result())["text"])
    texts.append(json.loads(recogniser.FinalResult())["text"])
    return " ".join(texts).split()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(heard(Path(sys.argv[1]))))
