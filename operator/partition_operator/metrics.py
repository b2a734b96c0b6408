"""The operator's metrics. Each scrape reads the current values from their owners."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

Family = type[CounterMetricFamily] | type[GaugeMetricFamily]


@dataclass(frozen=True)
class Metric:
    """One metric. `name` is without the prefix and, for a counter, without `_total`."""

    name: str
    family: Family
    help: str


LEADING = Metric("leading", GaugeMetricFamily, "1 if this process holds the Lease")
QUEUED = Metric("queued", GaugeMetricFamily, "Objects that wait for a turn")
RECONCILED = Metric("reconciled", CounterMetricFamily, "Reconciliations of a Partition")
FAILED = Metric("failed", CounterMetricFamily, "Turns that failed and are retried")
EVENTS_DROPPED = Metric(
    "events_dropped", CounterMetricFamily, "Events dropped by the limit per minute"
)
FOREIGN = Metric("foreign", GaugeMetricFamily, "Partitions that another operator manages")
WATCHES_DOWN = Metric(
    "watches_down", GaugeMetricFamily, "Namespaces, or the cluster, that can't be watched now"
)

ALL = (LEADING, QUEUED, RECONCILED, FAILED, EVENTS_DROPPED, FOREIGN, WATCHES_DOWN)

PREFIX = "partition_operator_"


class OperatorMetrics(Collector):
    """The metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._readers: dict[Metric, Callable[[], float]] = {}
        self.registry.register(self)

    def read(self, metric: Metric, reader: Callable[[], float]) -> None:
        """Sets the reader that each scrape calls. A metric without a reader is 0."""
        self._readers[metric] = reader

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        for metric in ALL:
            reader = self._readers.get(metric)
            value = 0.0 if reader is None else float(reader())
            yield metric.family(PREFIX + metric.name, metric.help, value=value)
