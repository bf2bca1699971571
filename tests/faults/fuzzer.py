"""Frames that are almost right, always the same for one seed."""

import json
import random

from trio_stt.dialects.events import StreamRequest
from trio_stt.dialects.native import BYTES_PER_SAMPLE

NUMBERS = [0, 1, 2, 7, 100, 2**31, 2**32, 2**53 - 1, 2**53, 2**63, 2**64 - 1]
TYPES = ["finalize", "eof", "configure", "ping", "resume", "unknown", "", None, 5, ["ping"]]
NAMES = ["id", "language", "target", "partials", "transcript", "translation", "speak", "token", "type", "\ud800", "\0"]
VALUES = [
    None,
    True,
    False,
    0,
    -1,
    2**53,
    10**30,
    1e400,
    0.5,
    "",
    "en",
    "de,fr",
    "x" * 200,
    "\ud800",
    "\0",
    "😀",
    [],
    {},
]
VALUES += [["de", "fr"], [["de"]], {"id": {"id": []}}, "en-" + "a" * 9, "../../etc/passwd"]
FRAGMENTS = ['"', "{", "}", "[", "]", ",", ":", "\\", "\\u", "\\ud800", "\0", "NaN", "1e999", "9" * 50, "é", "\udcff"]
FRAGMENTS += ['{"type":', '"type":"eof",', "[" * 60, '{"a":' * 30, " " * 40, "//", "'"]


class Fuzzer:
    """Frames from one seed: mostly well-formed ones with a few things wrong, some with nothing right."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def request(self) -> StreamRequest:
        pick = self._random.choice
        return StreamRequest(
            "anna",
            "call-1",
            framing=pick(["raw", "auto", "seq"]),
            encoding=pick(list(BYTES_PER_SAMPLE)),
            speak=self._random.random() < 0.9,
        )

    def frame(self, position: int) -> bytes | str:
        kind = self._random.random()
        if kind < 0.5:
            return self.binary(position)
        return self.text() if kind < 0.99 else b""

    def binary(self, position: int) -> bytes:
        below = self._random.random()
        number = position if below < 0.4 else max(0, position - int(below * 12)) if below < 0.8 else self._pick(NUMBERS)
        payload = self._random.randbytes(int(self._random.random() * 40))
        frame = self._pick([b"SEQ1", b"SEQ1", b"CHID", b"SEQ2"]) + number.to_bytes(8, "little") + payload
        damage = self._random.random()
        if damage < 0.1:
            return frame[: int(self._random.random() * 14)]
        return frame[int(self._random.random() * 13) :] if damage < 0.2 else frame

    def text(self) -> str:
        pick, chance = self._pick, self._random.random
        message = {pick(NAMES): pick(VALUES) for _ in range(int(chance() * 4))}
        message["type"] = pick(TYPES)
        text = json.dumps(message, ensure_ascii=chance() < 0.5)
        while chance() < 0.4:
            text = self.damaged(text)
        return text

    def damaged(self, text: str) -> str:
        start = int(self._random.random() * (len(text) + 1))
        end = start + int(self._random.random() * 6)
        return text[:start] + self._pick(["", *FRAGMENTS, text[start:end] * 2]) + text[end:]

    def _pick(self, choices: list):
        return choices[int(self._random.random() * len(choices))]
