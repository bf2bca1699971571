"""What a generator is asked to do, and what it saw: values that travel between processes."""

from __future__ import annotations

from array import array

from attrs import Factory, define, frozen


@frozen
class FramedSession:
    """A session's audio as the masked frames of its WebSocket, `frame_s` seconds each (the last may be shorter).

    `opening` is sent before the first frame (empty: nothing).
    """

    frames: tuple[bytes, ...]
    frame_s: float
    sample_rate: int
    opening: bytes = b""

    @property
    def seconds(self) -> float:
        """How long saying it takes, at most a frame less."""
        return len(self.frames) * self.frame_s


@frozen
class Talker:
    """One simulated speaker: it says `sessions` (places in the library) one after the other, round and round.

    Each is a connection of its own; the next begins when the last one's audio has ended, whatever the server does.
    """

    sessions: tuple[int, ...]
    starts_s: float = 0.0
    """Seconds after the load's begin."""
    skipped_frames: int = 0
    """Of its first session, so that not all sessions end at once."""
    pace: float = 1.0
    """So many times faster than real time."""
    reads: bool = True
    """False: nothing is read after the upgrade, and the kernel is given as little room as it takes."""
    vanishes: tuple[bool, ...] = (False,)
    """Which of its sessions, in turn, end without a word of goodbye."""
    beside: bytes = b""
    """A masked frame that is sent with every frame of audio."""


@frozen
class Load:
    """Who talks to which server, from `begins_at` (`time.monotonic`) on for `seconds`.

    `target` is a path with a query, in which ``{number}`` and ``{sample_rate}`` stand for what differs between
    connections. `goodbye` is the masked frame that ends a session; then the server has `last_words_s`.
    """

    host: str
    port: int
    target: str
    goodbye: bytes
    talkers: tuple[Talker, ...]
    begins_at: float
    seconds: float
    last_words_s: float


@define
class Connection:
    """One connection of one talker: what was sent and what came, when. Times are `time.monotonic`."""

    talker: int
    session: int
    first_frame: int
    began_at: float
    answered_at: float | None = None
    status: int = 0
    """HTTP status of the answer to the upgrade; 0: there was none."""
    sent_at: array[float] = Factory(lambda: array("d"))
    """When each frame from `first_frame` on was given to the connection, where it waits while the server takes none."""
    goodbye_at: float | None = None
    said_all: bool = False
    """Every frame of the session was handed over."""
    replies: list[tuple[float, bytes]] = Factory(list)
    """The text messages and when they came."""
    ended_at: float | None = None
    """When the server closed, after a goodbye; None: it never did."""
    dropped: bool = False
    """The server, or the network, ended the connection before the goodbye."""

    @property
    def accepted(self) -> bool:
        """Whether the server took the connection."""
        return self.status == 101

    @property
    def refused(self) -> bool:
        """Whether the server answered that it does not take the connection."""
        return self.status not in (0, 101)


@frozen
class LoadResult:
    """All connections, how late each frame was handed over, and the end of it all on `time.monotonic`.

    The lateness is the generator's own: a server that takes nothing makes frames wait, but not late.
    """

    connections: tuple[Connection, ...]
    late_s: array[float]
    over_at: float
    cpu_s: float
    """Processor time of the generating process."""
    messages: int
    """Sent and received."""
