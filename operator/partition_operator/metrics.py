"""The operator's metrics. Each scrape reads the current values from their owners."""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from partition_operator.reconcile.observed.partition import Certificates

Family = type[CounterMetricFamily] | type[GaugeMetricFamily]


@dataclass(frozen=True)
class Metric:
    """One metric. `name` is without the prefix and, for a counter, without `_total`. labels: the
    names of its labels."""

    name: str
    family: Family
    help: str
    labels: tuple[str, ...] = ()


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

CERTIFICATE_DAYS_LEFT = Metric(
    "certificate_days_left",
    GaugeMetricFamily,
    "Days until a certificate in a Secret expires",
    ("namespace", "partition", "secret"),
)
AUTHORITY_DAYS_LEFT = Metric(
    "authority_days_left", GaugeMetricFamily, "Days until the operator's authority expires"
)
CERTIFICATES_READY = Metric(
    "certificates_ready",
    GaugeMetricFamily,
    "1 if CertificatesReady of the Partition is True, else 0",
    ("namespace", "partition"),
)
CERTIFICATES_REFUSED = Metric(
    "certificates_refused",
    CounterMetricFamily,
    "Certificates of spec.tls that were refused, each counted once per reason",
)

ALL = (
    LEADING,
    QUEUED,
    RECONCILED,
    FAILED,
    EVENTS_DROPPED,
    FOREIGN,
    WATCHES_DOWN,
    CERTIFICATE_DAYS_LEFT,
    AUTHORITY_DAYS_LEFT,
    CERTIFICATES_READY,
    CERTIFICATES_REFUSED,
)

PREFIX = "partition_operator_"

Labelled = tuple[list[str], float]
"""The values of a sample's labels, in their order, and its number."""


class OperatorMetrics(Collector):
    """The metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._readers: dict[Metric, Callable[[], float]] = {}
        self._several: dict[Metric, Callable[[], Iterable[Labelled]]] = {}
        self.registry.register(self)

    def read(self, metric: Metric, reader: Callable[[], float]) -> None:
        """Sets the reader that each scrape calls. A metric without a reader is 0."""
        self._readers[metric] = reader

    def read_each(self, metric: Metric, reader: Callable[[], Iterable[Labelled]]) -> None:
        """Sets the reader of a metric with labels. Without a reader it has no samples."""
        self._several[metric] = reader

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        for metric in ALL:
            if metric.labels:
                found = metric.family(PREFIX + metric.name, metric.help, labels=metric.labels)
                several = self._several.get(metric)
                for labels, number in several() if several is not None else ():
                    found.add_metric(labels, number)
                yield found
                continue
            reader = self._readers.get(metric)
            value = 0.0 if reader is None else float(reader())
            yield metric.family(PREFIX + metric.name, metric.help, value=value)


def days_left(end: dt.datetime, now: dt.datetime) -> float:
    """Returns the days until `end`; negative afterwards."""
    return (end - now) / dt.timedelta(days=1)


def certificate_days(
    seen: Mapping[tuple[str, str], Certificates], now: dt.datetime
) -> list[Labelled]:
    """seen: by namespace and name of a Partition."""
    return [
        ([*partition, secret], days_left(end, now))
        for partition, found in seen.items()
        for secret, end in found.expiries.items()
    ]


def certificates_ready(seen: Mapping[tuple[str, str], Certificates]) -> list[Labelled]:
    """seen: by namespace and name of a Partition."""
    return [([*partition], float(found.ready)) for partition, found in seen.items()]
