"""Prometheus metrics of one instance. Labels are few and bounded: never a session, a client or a language asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

LAG_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0)

NAMED_CLOSE_CODES = frozenset({1000, 1001, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 1013, 4001, 4008})
"""Close codes with a label of their own."""


class Metrics:
    """The instance's metrics in a registry of their own, so that several instances can live in one process (tests)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.connections = self._counter("connections", "WebSockets accepted")
        self.refusals = self._counter("refusals", "Connections refused before accept, by HTTP status", "status")
        self.closes = self._counter("closes", "Connections ended, by close code (1006: the peer vanished)", "code")
        self.audio_seconds = self._counter("audio_seconds", "Audio received, in seconds")
        self.speech_seconds = self._counter("speech_seconds", "Audio given to the recogniser, in seconds")
        self.captions = self._counter("captions", "Captions published, partial or final", "kind")
        self.decode_failures = self._counter("decode_failures", "Recogniser calls that failed")
        self.translations = self._counter("translations", "Translations made, final or partial, or missing", "kind")
        self.translation_failures = self._counter("translation_failures", "Calls of translation engines that failed")
        self.translation_cache_hits = self._counter("translation_cache_hits", "Translations that were remembered")
        self.translation_seconds = Histogram(
            "trio_stt_translation_seconds",
            "From a final to its translation",
            buckets=LAG_BUCKETS_S,
            registry=self.registry,
        )
        self.lag = Histogram(
            "trio_stt_caption_lag_seconds",
            "Age of the oldest undecoded audio when a caption was published",
            buckets=LAG_BUCKETS_S,
            registry=self.registry,
        )

        self.reply_seconds = Histogram(
            "trio_stt_reply_seconds",
            "From a frame in the vosk-server dialect to its reply",
            buckets=LAG_BUCKETS_S,
            registry=self.registry,
        )

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """A gauge that is read when somebody scrapes."""
        Gauge(f"trio_stt_{name}", help, registry=self.registry).set_function(read)

    def total(self, name: str, help: str, read: Callable[[], float]) -> None:
        """A counter that is kept elsewhere, read when somebody scrapes."""
        self.registry.register(_Total(f"trio_stt_{name}", help, read))

    def count_refusal(self, status: int) -> None:
        """Counts a WebSocket that was refused."""
        self.refusals.labels(str(status)).inc()

    def gauges(self, name: str, help: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """A gauge with a label, read by the label's values when somebody scrapes."""
        self.registry.register(_Gauges(f"trio_stt_{name}", help, label, read))

    def count_close(self, code: int) -> None:
        """Counts a connection that ended. Peers choose their own codes: those the wire does not name are one label."""
        self.closes.labels(str(code) if code in NAMED_CLOSE_CODES else "other").inc()

    def expose(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"trio_stt_{name}", help, labels, registry=self.registry)


class _Total(Collector):
    def __init__(self, name: str, help: str, read: Callable[[], float]) -> None:
        self._name = name
        self._help = help
        self._read = read

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._help, self._read())


class _Gauges(Collector):
    def __init__(self, name: str, help: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        self._name = name
        self._help = help
        self._label = label
        self._read = read

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._help, labels=(self._label,))
        for value, number in self._read().items():
            family.add_metric((value,), number)
        yield family
