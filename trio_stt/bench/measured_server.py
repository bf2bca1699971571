"""A server under load: what it takes of the machine, and when it has come to rest."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx
import trio
from attrs import frozen
from prometheus_client.parser import text_string_to_metric_families

from trio_stt.bench.process_usage import cpu_seconds, resident_mb, thread_cpu_seconds
from trio_stt.bench.stream_lag import Dialect

IDLE_CORES = 0.05
"""A server that takes less of a core has nothing left to do."""

_IDLE_LOOK_S = 0.5
_MOST_IDLE_WAIT_S = 30.0
_GATE_CPU = "trio_stt_gate_cpu_seconds"
_SPEECH = "trio_stt_speech_seconds"
_METRICS_TIMEOUT_S = 5.0


@frozen
class ServerUsage:
    """Processor time so far; what a server does not tell is None."""

    event_loop_cpu_s: float
    """Of the process's first thread."""
    other_threads_cpu_s: float
    """Of all others: they decode, and do little else."""
    gate_cpu_s: float | None
    decoded_audio_s: float | None


@frozen
class MeasuredServer:
    """Where a server listens, how it is spoken to, and its process, if that is on this machine."""

    name: str
    url: str
    dialect: Dialect
    pid: int | None = None

    @property
    def host(self) -> str:
        """Name or address of its machine."""
        return urlsplit(self.url).hostname or "127.0.0.1"

    @property
    def port(self) -> int:
        """Its TCP port."""
        return urlsplit(self.url).port or 80

    @property
    def path(self) -> str:
        """What follows the port in its address."""
        return urlsplit(self.url).path

    async def usage(self) -> ServerUsage | None:
        """None without a process on this machine. Raises `OSError` if that is gone. May be cancelled."""
        if self.pid is None:
            return None
        metrics = await self._metrics()
        everything_s = cpu_seconds(self.pid)
        first_s = thread_cpu_seconds(self.pid, self.pid)
        return ServerUsage(first_s, everything_s - first_s, metrics.get(_GATE_CPU), metrics.get(_SPEECH))

    def resident_mb(self) -> float | None:
        """Its memory; None without a process on this machine."""
        return None if self.pid is None else resident_mb(self.pid)

    async def come_to_rest(self) -> None:
        """Returns when the server has nothing left to do, after half a minute at most. May be cancelled."""
        if self.pid is None:
            await trio.sleep(_IDLE_LOOK_S)
            return
        with trio.move_on_after(_MOST_IDLE_WAIT_S):
            before_s = cpu_seconds(self.pid)
            while True:
                await trio.sleep(_IDLE_LOOK_S)
                now_s = cpu_seconds(self.pid)
                if now_s - before_s < IDLE_CORES * _IDLE_LOOK_S:
                    return
                before_s = now_s

    async def _metrics(self) -> dict[str, float]:
        """Empty if the server has none, or has no time to tell them."""
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=_METRICS_TIMEOUT_S) as client:
                answer = await client.get(f"http://{self.host}:{self.port}/metrics")
        except httpx.HTTPError:
            return {}
        if answer.status_code != httpx.codes.OK:
            return {}
        return {
            sample.name.removesuffix("_total"): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
