"""Live sound from a microphone, by miniaudio (ALSA, PulseAudio, JACK, Core Audio, WASAPI, …)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Generator, Sequence

import miniaudio
import numpy as np
import trio

from trio_stt.transcribe.sound import SAMPLE_RATE, Samples, SourceError

BLOCK_MS = 100
"""Sound is handed over in blocks of this length."""

MAX_HELD_S = 120
"""Sound held while the server does not take it. Beyond that the newest is lost, which is counted."""

_ADVICE = "Is one plugged in and not in use? List them with --list-mics and choose with --mic-device."


class Microphone:
    """An open microphone. `blocks` gives its sound; `lost_s` is how many seconds nobody took in time."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.lost_s = 0.0
        self._send, self._receive = trio.open_memory_channel[Samples](MAX_HELD_S * 1000 // BLOCK_MS)

    async def blocks(self) -> AsyncIterator[Samples]:
        """Blocks of samples until the microphone is closed. May be cancelled."""
        async for block in self._receive:
            yield block

    def stop(self) -> None:
        """No more sound is taken in; `blocks` ends after what is held."""
        self._send.close()

    def _take(self, block: Samples) -> None:
        try:
            self._send.send_nowait(block)
        except trio.WouldBlock:
            self.lost_s += len(block) / SAMPLE_RATE
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # stopped while this block was on its way


def list_microphones(backends: Sequence[miniaudio.Backend] = ()) -> list[str]:
    """The names of the microphones of this machine. Raises `SourceError` where there is no sound system at all."""
    return [str(device["name"]) for device in _captures(backends)]


@contextlib.asynccontextmanager
async def open_microphone(
    device: str | None = None, backends: Sequence[miniaudio.Backend] = ()
) -> AsyncIterator[Microphone]:
    """Records from the microphone whose name contains `device` (default: the system's own choice).

    `backends`: the sound systems to try; default: those of this machine. Raises `SourceError`.
    """
    try:
        capture = miniaudio.CaptureDevice(
            input_format=miniaudio.SampleFormat.SIGNED16,
            nchannels=1,
            sample_rate=SAMPLE_RATE,
            buffersize_msec=BLOCK_MS,
            device_id=None if device is None else _find(device, backends),
            backends=list(backends) or _real_backends(),
            app_name="trio-stt",
        )
    except miniaudio.MiniaudioError as error:
        raise SourceError(f"No microphone can be opened ({error.args[0]}). {_ADVICE}") from error
    microphone = Microphone(capture.backend)
    try:
        receiver = _receive_blocks(microphone, trio.lowlevel.current_trio_token())
        next(receiver)
        capture.start(receiver)
        yield microphone
    except miniaudio.MiniaudioError as error:
        raise SourceError(f"The microphone cannot be started ({error.args[0]}). {_ADVICE}") from error
    finally:
        microphone.stop()
        capture.close()


def _receive_blocks(microphone: Microphone, token: trio.lowlevel.TrioToken) -> Generator[None, bytearray, None]:
    """Runs in miniaudio's thread: carries each block over to Trio without ever waiting."""
    while True:
        block = np.frombuffer((yield), np.int16)
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(microphone._take, block)


def _find(name: str, backends: Sequence[miniaudio.Backend]) -> object:
    captures = _captures(backends)
    fitting = [device["id"] for device in captures if name.casefold() in str(device["name"]).casefold()]
    if len(fitting) != 1:
        found = ", ".join(repr(device["name"]) for device in captures) or "none"
        number = "No" if not fitting else "More than one"
        raise SourceError(f"{number} microphone has {name!r} in its name. Microphones of this machine: {found}.")
    return fitting[0]


def _captures(backends: Sequence[miniaudio.Backend]) -> list[dict[str, object]]:
    try:
        devices = miniaudio.Devices(list(backends) or _real_backends())
        captures: list[dict[str, object]] = devices.get_captures()
    except miniaudio.MiniaudioError as error:
        raise SourceError(f"This machine has no sound system that can be used ({error.args[0]}).") from error
    return captures


def _real_backends() -> list[miniaudio.Backend]:
    """Without the null backend: silence that looks like a microphone would only puzzle people."""
    enabled: set[miniaudio.Backend] = set(miniaudio.get_enabled_backends())
    return sorted(enabled - {miniaudio.Backend.NULL}, key=lambda backend: int(backend.value))
