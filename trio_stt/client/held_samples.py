"""The samples that a client keeps until the server has dealt with them."""

from __future__ import annotations


class HeldSamples:
    """Consecutive encoded samples, the oldest of which may be dropped.

    Positions count from the first sample ever added. Dropping costs what it frees, not what it keeps: a bytearray moves
    its start.
    """

    def __init__(self, bytes_per_sample: int) -> None:
        self._bytes_per_sample = bytes_per_sample
        self._payload = bytearray()
        self._oldest = 0

    @property
    def oldest(self) -> int:
        """The position of the oldest sample held; `newest` if none is."""
        return self._oldest

    @property
    def newest(self) -> int:
        """The position that the next sample added will have."""
        return self._oldest + len(self)

    def __len__(self) -> int:
        """How many samples are held."""
        return len(self._payload) // self._bytes_per_sample

    def check_whole(self, payload: bytes) -> None:
        """Raises ValueError unless `payload` is whole samples."""
        if len(payload) % self._bytes_per_sample:
            raise ValueError(f"{len(payload)} bytes are not whole samples of {self._bytes_per_sample} bytes")

    def add(self, payload: bytes) -> None:
        """Keeps `payload`, whole samples."""
        self._payload += payload

    def drop_before(self, position: int) -> None:
        """Drops the samples before `position`, if any; at most all that are held."""
        count = min(position - self._oldest, len(self))
        if count > 0:
            del self._payload[: count * self._bytes_per_sample]
            self._oldest += count

    def between(self, start: int, end: int) -> bytes:
        """The samples from `start` up to `end`, both of which must be held."""
        if not self._oldest <= start <= end <= self.newest:
            raise ValueError(f"samples {start} to {end} are asked for; held are {self._oldest} to {self.newest}")
        first = (start - self._oldest) * self._bytes_per_sample
        return bytes(self._payload[first : first + (end - start) * self._bytes_per_sample])
