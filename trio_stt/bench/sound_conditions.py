"""The same speech under other conditions: quieter, louder, by telephone, with noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
from attrs import evolve

from trio_stt.bench.speech import SAMPLE_RATE, Clip, Samples

TELEPHONE_RATE = 8000
"""Samples a second of a telephone call (ITU-T G.711)."""

QUIET_DB = -20.0
LOUD_DB = 6.0
NOISE_DB = 15.0
"""So much louder than the added white noise is the speech."""

_MU = 255.0  # of the μ-law, ITU-T G.711
_FULL_SCALE = 32768.0


def with_gain(samples: Samples, gain_db: float) -> Samples:
    """Louder or quieter; what does not fit into 16 bits is clipped, as a microphone's amplifier does."""
    return _to_int16(samples * 10 ** (gain_db / 20))


def with_noise(samples: Samples, noise_db: float, seed: int = 0) -> Samples:
    """With white noise `noise_db` below the mean power of the whole."""
    power = float(np.mean(np.square(samples.astype(np.float64))))
    noise = np.random.default_rng(seed).standard_normal(len(samples)) * np.sqrt(power / 10 ** (noise_db / 10))
    return _to_int16(samples + noise)


def by_telephone(samples: Samples) -> Samples:
    """At 8000 samples a second, each through the 256 steps of the μ-law."""
    narrow = np.clip(soxr.resample(samples / _FULL_SCALE, SAMPLE_RATE, TELEPHONE_RATE), -1.0, 1.0)
    steps = np.round(np.sign(narrow) * np.log1p(_MU * np.abs(narrow)) / np.log1p(_MU) * 127) / 127
    return _to_int16(np.sign(steps) * np.expm1(np.abs(steps) * np.log1p(_MU)) / _MU * _FULL_SCALE)


CONDITIONS: Mapping[str, Callable[[Samples], Samples]] = {
    "as recorded": lambda samples: samples,
    f"{QUIET_DB:+g} dB": lambda samples: with_gain(samples, QUIET_DB),
    f"{LOUD_DB:+g} dB": lambda samples: with_gain(samples, LOUD_DB),
    "telephone": by_telephone,
    f"noise {NOISE_DB:g} dB below": lambda samples: with_noise(samples, NOISE_DB),
}
"""What is done to the sound, by name."""


def under(condition: str, clip: Clip) -> Clip:
    """The clip as it sounds under one of `CONDITIONS`; by telephone it has `TELEPHONE_RATE` samples a second."""
    rate = TELEPHONE_RATE if condition == "telephone" else clip.sample_rate
    return evolve(clip, samples=CONDITIONS[condition](clip.samples), sample_rate=rate)


def at_model_rate(clip: Clip) -> Clip:
    """The clip with `SAMPLE_RATE` samples a second, for an engine that takes nothing else."""
    if clip.sample_rate == SAMPLE_RATE:
        return clip
    wide = soxr.resample(clip.samples / _FULL_SCALE, clip.sample_rate, SAMPLE_RATE)
    return evolve(clip, samples=_to_int16(wide * _FULL_SCALE), sample_rate=SAMPLE_RATE)


def _to_int16(samples: npt.NDArray[np.floating[Any]]) -> Samples:
    return np.clip(np.round(samples), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
