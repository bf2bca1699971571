"""Prometheus metrics of one agent. No label names a room or a person."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from agent.pool import Pool

NOW = {"tracks": "Speakers that are heard"}
"""Figures of a room's status that are gauges."""

TOTALS = {
    "captions": "Captions written into rooms",
    "drops": "Frames of sound that were lost because the agent could not keep up",
}
"""Figures of a room's status that only grow."""


class AgentMetrics:
    """The agent's metrics in a registry of their own."""

    def __init__(self, pool: Pool) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_Rooms(pool))
        self.spoken = Counter(
            "stt_agent_spoken", "Texts spoken by request: said, or failed", ("outcome",), registry=self._registry
        )

    def expose(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _Rooms(Collector):
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        pool = self._pool
        yield GaugeMetricFamily("stt_agent_rooms", "Rooms that the agent is in", pool.record.rooms)
        yield GaugeMetricFamily("stt_agent_draining", "1 while it goes into no more rooms and ends", pool.draining)
        yield GaugeMetricFamily(
            "stt_agent_leases_up", "1 while it can say which rooms it has", pool.connected_to_others
        )
        yield CounterMetricFamily("stt_agent_room_failures", "How often a room failed", pool.failures)
        for name, help in NOW.items():
            yield GaugeMetricFamily(f"stt_agent_{name}", help, pool.now(name))
        for name, help in TOTALS.items():
            yield CounterMetricFamily(f"stt_agent_{name}", help, pool.total(name))
