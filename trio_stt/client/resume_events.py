"""What a resuming stream tells besides the server's own events: stalls, losses, and how it ended.

Positions count the samples that the user gave, from the first (0), through every connection and every new stream.
"""

from __future__ import annotations

from enum import Enum

from attrs import field, frozen

from trio_stt.client.refusal import ServerUnreachableError, StreamRefusedError
from trio_stt.dialects.events import Close, Ready, ServerEvent


@frozen
class Interrupted:
    """The connection is lost, or the first one failed: captions stall. Audio may be given all the same.

    `Resumed`, `Restarted` or the first `Ready` follows. `why`: for a log, such as ``closed with 1012``. `failure`: that
    of a try to connect, where it was one.
    """

    why: str
    failure: ServerUnreachableError | StreamRefusedError | None = field(default=None, eq=False)


@frozen
class Resumed:
    """The same stream goes on, elsewhere or again. `replayed_samples`: how many are sent a second time."""

    ready: Ready
    stall_s: float
    replayed_samples: int


@frozen
class Restarted:
    """The stream could not be resumed, so a new one took its place: its first sample is the user's `at_sample`.

    Others in the call may see twice what the old stream had captioned after its last acknowledged sample.
    """

    ready: Ready
    stall_s: float
    at_sample: int


@frozen
class Lost:
    """These samples will not be captioned: there was no more room for them before a server took them."""

    from_sample: int
    to_sample: int


@frozen
class ResumeUnavailable:
    """The server resumes no streams: a lost connection will be followed by a new stream."""

    why: str


class EndReason(Enum):
    """Why a stream is over."""

    FINISHED = "finished"
    """The server closed with 1000: after `end`, or with ``Idle timeout`` or ``Max duration reached``."""
    REFUSED = "refused"
    """The server does not take this stream: HTTP 400, 403 or another answer that will not change."""
    UNAUTHORISED = "unauthorised"
    """The access token is missing, not valid or over, and there was no new one that helped."""
    REPLACED = "replaced"
    """Another connection of the same `client_id` took its place in the call."""
    CLOSED = "closed"
    """The server closed it for good, such as 1008 with ``quota_used_up``."""
    UNREACHABLE = "unreachable"
    """No server was ready within the user's `patience_s`."""


@frozen
class Ended:
    """The last event. `close`: of the connection, where there was one; `status`: of the HTTP refusal, where it was one.

    `code` and `message` are the server's, where it gave them.
    """

    reason: EndReason
    close: Close | None = None
    status: int | None = None
    code: str | None = None
    message: str = ""


ResumingEvent = ServerEvent | Interrupted | Resumed | Restarted | Lost | ResumeUnavailable | Ended
